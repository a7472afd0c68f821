"""Holds back requests on single sockets of an app: `bpf/hold.bpf.c`, its maps and its ring buffer.

The program stays on a socket for as long as the socket lives, and does nothing unless the connection is watched and the
lease holds: whatever becomes of this process, the app gets what its clients send.
"""

import errno
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy.steer import libbpf
from tproxy.steer.diagnosis import explain

OBJECT = Path(__file__).with_name("hold.bpf.o")
PROGRAM = "tproxy_hold"
WATCHED_MAP = "tproxy_watched"
REQUESTS_MAP = "tproxy_requests"
LEASE_MAP = "tproxy_hlease"

PIECE = struct.Struct("=QIIII")  # struct tproxy_piece without its bytes
_COOKIE = struct.Struct("=Q")
WATCHED = struct.Struct("=QIIIxxxx")  # struct tproxy_watched: held since, passed, heard, answer
_LEASE_KEY = bytes(4)
_SO_ATTACH_BPF = 50
_SO_COOKIE = 57
_SO_GET_FILTER = 26  # the option by which a filter is attached, when it is read
_SO_DETACH_FILTER = 27


@dataclass(slots=True)
class Held:
    """A request that is held back: `data` is its beginning, as much as has been seen of it.

    `sequence` is that of its first byte, `acknowledged` that of the next byte that the client wants of the app.
    """

    cookie: int
    sequence: int
    acknowledged: int
    data: bytearray

    @property
    def end(self) -> int:
        """The sequence number after `data`."""
        return (self.sequence + len(self.data)) & 0xFFFFFFFF


class Hold:
    """The program, loaded once for all connections. `on_held` is called from `consume`, once for each request.

    What else comes of the request is added to it by `consume`, until `let_go` or `forget`.
    """

    def __init__(self) -> None:
        """Raises TproxyError if this machine cannot do it."""
        if not OBJECT.exists():
            raise TproxyError(f"the kernel program {OBJECT} has not been compiled", "run `make bpf`")
        self.on_held: Callable[[Held], None] = self.let_go
        self._held: dict[int, Held] = {}
        self._fresh: list[Held] = []
        try:
            self._object = libbpf.Object(OBJECT)
            try:
                self._object.load()
                self._program = self._object.program(PROGRAM)
                self._watched = self._object.map(WATCHED_MAP)
                self._lease = self._object.map(LEASE_MAP)
                self._ring = libbpf.Ring(self._object.map(REQUESTS_MAP), self._sample)
            except BaseException:
                self._object.close()
                raise
        except OSError as error:
            raise explain(error, "hold back requests") from error

    def fileno(self) -> int:
        """Readable when requests are held back."""
        return self._ring.fileno()

    def consume(self) -> None:
        """Hand the requests that are held back to `on_held`."""
        self._ring.consume()
        fresh, self._fresh = self._fresh, []
        for held in fresh:
            self.on_held(held)

    def attach(self, sock: socket.socket) -> int:
        """Watch a connection of an app; its cookie. Raises OSError, FileExistsError if it has a filter of its own."""
        cookie = cookie_of(sock)
        if _filtered(sock):
            raise FileExistsError(errno.EEXIST, "the socket has a filter of its own")
        self._watched.update(_COOKIE.pack(cookie), bytes(WATCHED.size))
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, self._program)
        except OSError:
            self.forget(cookie)
            raise
        return cookie

    def detach(self, sock: socket.socket) -> None:
        """Take the program off a connection. Raises OSError."""
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def hold_on(self, held: Held) -> None:
        """Hold back everything for a while longer."""
        self._watched.update(_COOKIE.pack(held.cookie), WATCHED.pack(time.monotonic_ns(), 0, 0, 0))

    def let_go(self, held: Held) -> None:
        """The app shall have this request, which its client is about to send again; go on watching."""
        self._held.pop(held.cookie, None)
        self._watched.update(_COOKIE.pack(held.cookie), WATCHED.pack(0, held.end, 0, 0))

    def forget(self, cookie: int) -> None:
        """Watch a connection no more."""
        self._held.pop(cookie, None)
        self._watched.delete(_COOKIE.pack(cookie))

    def renew(self, seconds: float) -> None:
        """Renew the lease to end `seconds` from now."""
        self._lease.update(_LEASE_KEY, struct.pack("=Q", time.monotonic_ns() + int(seconds * 1e9)))

    def close(self) -> None:
        """Hold nothing back any more. Idempotent."""
        self._ring.close()
        self._object.close()

    def _sample(self, sample: bytes) -> None:
        cookie, sequence, acknowledged, size, more = PIECE.unpack_from(sample)
        data = sample[PIECE.size : PIECE.size + size]
        held = self._held.get(cookie)
        if held is None or (not more and sequence != held.end):
            if not more:
                self._held[cookie] = held = Held(cookie, sequence, acknowledged, bytearray(data))
                self._fresh.append(held)
        elif sequence == held.end:  # whatever else comes is lost on the way, and TCP's to repeat
            held.data += data
            held.acknowledged = acknowledged


def cookie_of(sock: socket.socket) -> int:
    """What names a socket in this machine, whoever holds it. Raises OSError."""
    return int(_COOKIE.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE.size))[0])


def _filtered(sock: socket.socket) -> bool:
    """Whether the app has attached a filter. One that cannot be read is a BPF program, and so of an earlier daemon."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, _SO_GET_FILTER))
    except PermissionError:
        return False
