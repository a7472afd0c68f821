"""Connections of the tunnel that carry datagrams."""

import asyncio
import socket
from collections.abc import Callable

from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import reset_reason
from tproxy.tunnel.conn import MAX_DATAGRAM, Buffer, Conn

IDLE_SECONDS = 60.0
"""A flow without a datagram either way for this long is over: as long as middleboxes keep one at least."""

READS_AT_ONCE = 32
EARLY_DATAGRAMS = 16
"""What waits until the flow has a socket; the rest is dropped, as the kernel would."""


class Flow:
    """The sink of a connection that carries datagrams only. `over` is called once, when it is over."""

    def __init__(self, conn: Conn, over: Callable[[], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._conn = conn
        self._over: Callable[[], None] | None = over
        conn.sink = self
        conn.on_datagram = self._datagram

    def _datagram(self, payload: bytes) -> None:
        """One of the other side's."""

    def _close(self) -> None:
        """Release what it holds."""

    def fail(self, reason: ResetReason, detail: str) -> None:
        """End it towards the other side. Idempotent."""
        self._conn.reset(reason, detail)
        self._end()

    def gone(self) -> None:
        """The pod that it leaves from has gone."""
        self.fail(ResetReason.RESET, "the pod that it left from has gone")

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            self._close()
            self.ended.set_result(None)
            over()

    def conn_opened(self) -> None:
        """Never: the other side opened it."""

    def conn_data(self, data: Buffer) -> None:
        """Nothing that belongs here."""
        self._conn.consumed(len(data))

    def conn_eof(self) -> None:
        """The other side is done."""
        self._conn.write_eof()
        self._end()

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The other side has closed it, or the tunnel is lost."""
        self._end()

    def conn_pause(self) -> None:
        """Datagrams are dropped instead."""

    def conn_resume(self) -> None:
        """Nothing was held back."""


class UdpFlow(Flow):
    """Datagrams between the other side and one destination, over a connected socket."""

    def __init__(self, conn: Conn, over: Callable[[], None], idle_seconds: float | None = None) -> None:
        super().__init__(conn, over)
        self._idle_seconds = IDLE_SECONDS if idle_seconds is None else idle_seconds
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._early: list[bytes] = []
        self._active = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, sock: socket.socket) -> None:
        """Take the socket over and begin."""
        if self._over is None:
            sock.close()
            return
        self._sock = sock
        self._loop.add_reader(sock.fileno(), self._readable)
        self._timer = self._loop.call_later(self._idle_seconds, self._look)
        self._conn.accept()
        early, self._early = self._early, []
        for payload in early:
            self._datagram(payload)

    def _datagram(self, payload: bytes) -> None:
        self._active = self._loop.time()
        if self._sock is None:
            if len(self._early) < EARLY_DATAGRAMS:
                self._early.append(payload)
            return
        try:
            self._sock.send(payload)
        except BlockingIOError:
            return  # the interface's queue is full
        except OSError as error:
            self._failed(error)

    def _readable(self) -> None:
        if self._sock is None:
            return
        self._active = self._loop.time()
        for _ in range(READS_AT_ONCE):
            try:
                self._conn.write_datagram(self._sock.recv(MAX_DATAGRAM + 1))
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return

    def _failed(self, error: OSError) -> None:
        """ICMP has said so, or the datagram was too large, which ends nothing."""
        if reset_reason(error) is ResetReason.REFUSED:
            self._refused()

    def _refused(self) -> None:
        """Nobody listens there."""
        self.fail(ResetReason.REFUSED, "nobody listens there")

    def _look(self) -> None:
        rest = self._active + self._idle_seconds - self._loop.time()
        if rest > 0:
            self._timer = self._loop.call_later(rest, self._look)
        else:
            self.fail(ResetReason.TIMED_OUT, f"idle for {self._idle_seconds:.0f} s")

    def stop(self) -> None:
        """Close the socket; it may be started again with another one."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _close(self) -> None:
        self.stop()
