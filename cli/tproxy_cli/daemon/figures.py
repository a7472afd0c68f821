"""What became of requests, asked of the nodes through the tunnels, for `tproxy status`."""

import asyncio
import json
from collections.abc import Iterable

from tproxy.errors import InvalidError
from tproxy.model.figures import Requests, read_all
from tproxy.model.flow import NOWHERE, FlowKind, OpenRequest, ResetReason
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint
from tproxy_cli.daemon.tunnels import TunnelView

WAIT_SECONDS = 1.0
"""How long a node may take. Older figures of one that is slower are shown."""

MAX_ANSWER = 1024 * 1024
MAX_INTERCEPTS = 1024
PROTOCOL = "requests"


class Figures:
    """The newest of each node."""

    def __init__(self) -> None:
        self._by_node: dict[str, dict[str, Requests]] = {}

    async def refresh(self, views: Iterable[TunnelView]) -> None:
        """Ask every node that there is a tunnel to; never raises TproxyError."""
        endpoints = {view.node: view.endpoint for view in views if view.endpoint is not None and view.endpoint.alive}
        answers = await asyncio.gather(*(_ask(endpoint) for endpoint in endpoints.values()))
        for node, answer in zip(endpoints, answers, strict=True):
            if answer is not None:
                self._by_node[node] = answer

    def of(self, intercept: str) -> Requests | None:
        """Those on the ports of an intercept (UID), of all nodes together; None if no node has told any."""
        known = [figures[intercept] for figures in self._by_node.values() if intercept in figures]
        if not known:
            return None
        total = Requests()
        for figures in known:
            total.merge(figures)
        return total


async def _ask(endpoint: Endpoint) -> dict[str, Requests] | None:
    answer = _Answer()
    conn = endpoint.open(OpenRequest(FlowKind.READ, NOWHERE, protocol=PROTOCOL), answer)
    answer.conn = conn
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            text = await answer.whole
        return dict(read_all(json.loads(text), MAX_INTERCEPTS))
    except (TimeoutError, ConnectionError, ValueError, InvalidError, RecursionError):
        return None  # an older node does not know
    finally:
        conn.reset()


class _Answer:
    """The sink: keeps what the node says until it has said everything."""

    def __init__(self) -> None:
        self.conn: Conn | None = None
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._text = bytearray()

    def conn_opened(self) -> None:
        """The node answers."""

    def conn_data(self, data: Buffer) -> None:
        """A part of it."""
        self._text += data
        if len(self._text) > MAX_ANSWER:
            self._fail("the node says too much")
        elif self.conn is not None:
            self.conn.consumed(len(data))

    def conn_eof(self) -> None:
        """That was all."""
        if not self.whole.done():
            self.whole.set_result(bytes(self._text))
        if self.conn is not None:
            self.conn.write_eof()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """It has no answer."""
        self._fail(detail or reason.value)

    def _fail(self, why: str) -> None:
        if not self.whole.done():
            self.whole.set_exception(ConnectionError(why))

    def conn_pause(self) -> None:
        """Nothing is written here."""

    def conn_resume(self) -> None:
        """Nothing is written here."""
