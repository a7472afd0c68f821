"""A client's connection at its very beginning, before anything of it has been read."""

import asyncio
import logging
from typing import Protocol, cast

from tproxy.tunnel.bridge import abort_with_reset

log = logging.getLogger(__name__)


class Pod(Protocol):
    """Who decides where it goes."""

    def accepted(self, transport: asyncio.Transport, why: str) -> None:
        """Pass it on; `why` it comes here."""
        ...


class Accepted(asyncio.Protocol):
    """A connection's first protocol: hands it on before anything is read."""

    def __init__(self, pod: Pod, why: str = "intercept") -> None:
        self._pod = pod
        self._why = why

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        tcp = cast(asyncio.Transport, transport)
        try:
            self._pod.accepted(tcp, self._why)
        except Exception:  # whatever it is, this client must not wait for ever
            log.exception("cannot pass a connection on", extra={"rate_key": "accepted"})
            abort_with_reset(tcp)
