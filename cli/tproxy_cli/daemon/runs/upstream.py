"""The far sides of a run's connections: through the tunnel, or by the laptop's own network.

Each is begun before the program's side stands, and says how that went; then it takes the program's side.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from tproxy.model.flow import Address, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import Bridge, reset_reason
from tproxy.tunnel.splice import Splice
from tproxy_cli.daemon.outbound.port import Outbound

CONNECT_SECONDS = 75.0
"""How long a host of the laptop's network may take: past that most programs have given up by themselves."""

OnResult = Callable[[ResetReason | None, str], None]
"""Told once whether the far end has accepted (None), or why not."""


class Upstream(Protocol):
    """A far side."""

    @property
    def near(self) -> asyncio.Protocol:
        """The protocol for the program's side."""

    @property
    def over(self) -> "asyncio.Future[None]":
        """Done when both sides are gone."""

    def abort(self) -> None:
        """Reset both sides."""


class ClusterUpstream(Bridge):
    """Dialled by a node from a pod."""

    def __init__(self, outbound: Outbound, destination: Address, on_result: OnResult) -> None:
        super().__init__()
        self._on_result: OnResult | None = on_result
        self.join(outbound.open_tcp(destination, None, self))

    @property
    def near(self) -> asyncio.Protocol:
        """The protocol for the program's side."""
        return self

    @property
    def over(self) -> "asyncio.Future[None]":
        """Done when both sides are gone."""
        return self.done

    def conn_opened(self) -> None:
        """The destination has accepted."""
        self._tell(None, "")

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """It has not, or the connection has broken since."""
        self._tell(reason, detail)
        super().conn_reset(reason, detail)

    def _tell(self, reason: ResetReason | None, detail: str) -> None:
        on_result, self._on_result = self._on_result, None
        if on_result is not None:
            on_result(reason, detail)


class LaptopUpstream:
    """Connected by the laptop's own network."""

    def __init__(self, destination: Address, tasks: Tasks, on_result: OnResult) -> None:
        self._splice = Splice()
        self._connecting = tasks.start(self._connect(destination, on_result), "connect")

    @property
    def near(self) -> asyncio.Protocol:
        """The protocol for the program's side."""
        return self._splice.client

    @property
    def over(self) -> "asyncio.Future[None]":
        """Done when both sides are gone."""
        return self._splice.over

    def abort(self) -> None:
        """Reset both sides."""
        self._connecting.cancel()
        self._splice.abort()

    async def _connect(self, destination: Address, on_result: OnResult) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: self._splice.app, destination.host, destination.port)
        except OSError as error:
            on_result(reset_reason(error), error.strerror or "")
            self._splice.app.gone = True
            self._splice.abort()
        else:
            on_result(None, "")
