"""Datagrams of one client, to the local app and back."""

import socket

from tproxy.model.flow import ResetReason
from tproxy.tunnel.endpoint import Conn
from tproxy.tunnel.flow import UdpFlow

LOOPBACK = ("127.0.0.1", "::1")
IDLE_SECONDS = 150.0
"""Nodes end idle flows before, and know better."""


class LocalFlow(UdpFlow):
    """The sink of one flow's connection in the tunnel."""

    def __init__(self, conn: Conn) -> None:
        super().__init__(conn, lambda: None, IDLE_SECONDS)
        self._port = 0
        self._left = list(LOOPBACK)
        self._last: bytes | None = None

    def begin(self, port: int) -> None:
        """The local app is at this port."""
        self._port = port
        self._next(ResetReason.UNREACHABLE, "no loopback address")

    def _next(self, reason: ResetReason, detail: str) -> None:
        """Try the next address; without one, end for this reason."""
        while self._left:
            host = self._left.pop(0)
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            try:
                sock.connect((host, self._port))
            except OSError:
                sock.close()  # there may be no ::1
                continue
            self.start(sock)
            return
        self.fail(reason, f"the local app at port {self._port}: {detail}")

    def _datagram(self, payload: bytes) -> None:
        self._last = payload if self._left else None
        super()._datagram(payload)

    def _refused(self) -> None:
        """Nobody listens at this address: the last datagram is for the next one."""
        last, self._last = self._last, None
        self.stop()
        self._next(ResetReason.REFUSED, "nobody listens there")
        if last is not None:
            self._datagram(last)
