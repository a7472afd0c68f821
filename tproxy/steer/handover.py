"""Takes an established connection over from the app: same client, same addresses, same place in both byte streams.

    client ══════ app's socket            the client's next request is held back, the app has answered the last one
    client ══════ our socket ─► laptop    the app's socket ends; the client notices nothing

By TCP_REPAIR, which CRIU moves connections between machines with (Linux 3.5, CAP_NET_ADMIN in the pod's namespace).
"""

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from tproxy.netns.handle import Netns
from tproxy.steer.hold import Held
from tproxy.steer.tcp_info import ESTABLISHED, TcpInfo, waiting

# <linux/tcp.h>
_REPAIR = 19
_REPAIR_OFF_QUIETLY = -1  # without sending anything; since Linux 4.19
_REPAIR_QUEUE = 20
_QUEUE_SEQ = 21
_REPAIR_OPTIONS = 22
_TIMESTAMP = 24
_REPAIR_WINDOW = 29
_NO_QUEUE, _RECEIVED, _SENT = 0, 1, 2
_WINDOW_SIZE = 20
_HAS_TIMESTAMPS, _HAS_SACK, _HAS_SCALE = 1, 2, 4  # tcpi_options
_OPTION_MSS, _OPTION_SCALE, _OPTION_SACK, _OPTION_TIMESTAMPS = 2, 3, 4, 8
_PIECE = 4096

# <linux/filter.h>
_SO_ATTACH_FILTER, _SO_DETACH_FILTER, _SO_GET_FILTER = 26, 27, 26
_INSTRUCTION = struct.Struct("=HBBI")  # code, how far to go if true and if false, operand
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _IF_ANY, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x45, 0x06
_WORD = struct.Struct("=I")

# Not CDLL, which lets other threads of ours run between two calls.
_libc = ctypes.PyDLL(None, use_errno=True)
_OFF = struct.pack("=i", _REPAIR_OFF_QUIETLY)
_UNSPECIFIED = struct.pack("=H14x", socket.AF_UNSPEC)


class BusyError(Exception):
    """The connection is not between two requests."""


def between_requests(app: socket.socket, held: Held) -> bool:
    """Whether the app has read all there was and has spoken last, and the client has got all of it. Raises OSError.

    With `held` being the beginning of a request, that is the boundary between two of them: no answer is on its way or
    still to come. (Of requests sent one upon the other without waiting, the last answer may be outstanding.)
    """
    info = TcpInfo.of(app)
    return info.state == ESTABLISHED and not waiting(app) and info.spoke_last


def take_over(app: socket.socket, held: Held, netns: Netns, listeners: Iterable[socket.socket] = ()) -> socket.socket:
    """A non-blocking socket in `netns` that goes on where `app`, the app's socket, is, with `held` to be read from it.

    `listeners` are those to which the kernel gives a packet of the client for which there is no connection.

    Raises `BusyError`, with nothing changed; OSError when it failed: then the connection may be lost, as if it had been
    closed, and the request with it.
    """
    family, name, peer = _addresses(app)
    ours = netns.socket(family, socket.SOCK_STREAM)
    try:
        ours.setblocking(False)
        _set(ours, _REPAIR, 1)
        with _deaf(listeners, peer[1], held.acknowledged):
            _take(app, ours, family, name, peer, held)
    except BaseException:
        ours.close()
        raise
    return ours


def _take(
    app: socket.socket,
    ours: socket.socket,
    family: socket.AddressFamily,
    name: tuple[str, int],
    peer: tuple[str, int],
    held: Held,
) -> None:
    reuse = app.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    _set(app, _REPAIR, 1)
    try:
        info = TcpInfo.of(app)
        received, sent = _sequence(app, _RECEIVED), _sequence(app, _SENT)
        # Whoever has sent or received meanwhile is not between two requests any more. (What was sent and is not yet
        # acknowledged, the held packet acknowledges.)
        if info.state != ESTABLISHED or waiting(app) or (received, sent) != (held.sequence, held.acknowledged):
            raise BusyError
        window = app.getsockopt(socket.IPPROTO_TCP, _REPAIR_WINDOW, _WINDOW_SIZE)
        timestamp = app.getsockopt(socket.IPPROTO_TCP, _TIMESTAMP, 4)
        options = struct.pack("=II", _OPTION_MSS, app.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
        if info.options & _HAS_SCALE:
            options += struct.pack("=II", _OPTION_SCALE, info.scales & 15 | info.scales >> 4 << 16)
        if info.options & _HAS_SACK:
            options += struct.pack("=II", _OPTION_SACK, 0)
        if info.options & _HAS_TIMESTAMPS:
            options += struct.pack("=II", _OPTION_TIMESTAMPS, 0)
        _set_sequence(ours, _RECEIVED, received)
        _set_sequence(ours, _SENT, sent)
        ours.bind(name)
        _replace(app.fileno(), ours.fileno(), _packed(family, peer))
    finally:
        with contextlib.suppress(OSError):
            _set(app, _REPAIR, _REPAIR_OFF_QUIETLY)
            # Repair takes it away, and an app that starts anew could not bind while this connection is open.
            app.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    ours.setsockopt(socket.IPPROTO_TCP, _REPAIR_OPTIONS, options)
    if info.options & _HAS_TIMESTAMPS:
        ours.setsockopt(socket.IPPROTO_TCP, _TIMESTAMP, timestamp)
    ours.setsockopt(socket.IPPROTO_TCP, _REPAIR_WINDOW, window)
    _set(ours, _REPAIR_QUEUE, _RECEIVED)
    # It takes as much as the receive buffer has room for; the client sends the rest again.
    for at in range(0, len(held.data), _PIECE):
        try:
            ours.send(held.data[at : at + _PIECE])
        except OSError:
            if at == 0:
                raise
            break
    _set(ours, _REPAIR_QUEUE, _NO_QUEUE)
    # This also sends the client an acknowledgement.
    _set(ours, _REPAIR, 0)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _replace(app: int, ours: int, peer: bytes) -> None:
    """End the app's socket without a word to the client, and put ours in its place.

    In between, for some microseconds, the connection is nobody's: no other program shall run then. Whoever waits for
    the app's socket is woken, and finds it aborted, or under repair, so that is over next.
    """
    with _undisturbed():
        result = _libc.connect(app, _UNSPECIFIED, len(_UNSPECIFIED)) or _libc.connect(ours, peer, len(peer))
        number = ctypes.get_errno()
        _libc.setsockopt(app, socket.IPPROTO_TCP, _REPAIR, _OFF, len(_OFF))
    if result != 0:
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def _deaf(listeners: Iterable[socket.socket], port: int, acknowledged: int) -> Iterator[None]:
    """Have listeners drop what one client sends again, which they would answer with a reset, there being no connection.

    Linux sends the last segment of several again after 10 ms or so (RFC 8985, 7.2), when it is being taken over. A
    listener of the app's that has a filter already keeps it. Should we die in the middle, the app is left with one that
    drops nothing but what that client sends of that moment.
    """
    program = (
        (_LOAD_HALF, 0, 0, 0),  # the source port
        (_IF_EQUAL, 0, 5, port),
        (_LOAD_WORD, 0, 0, 8),  # the acknowledgement
        (_IF_EQUAL, 0, 3, acknowledged),
        (_LOAD_BYTE, 0, 0, 13),  # the flags
        (_IF_ANY, 1, 0, 2),  # SYN
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 0xFFFFFFFF),
    )
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in program))
    filtered = struct.pack("@HP", len(program), ctypes.addressof(code))
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            with contextlib.suppress(OSError):  # it may be locked
                if not _is_filtered(listener):
                    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filtered)
                    stack.callback(listener.setsockopt, socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        yield


def _is_filtered(listener: socket.socket) -> bool:
    """Raises OSError, also for a filter that the kernel does not show."""
    instructions = ctypes.c_uint32(0)  # there is room for; asked with none, the kernel says how many there are
    size = ctypes.byref(instructions)
    if _libc.getsockopt(listener.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return instructions.value > 0


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Before all other processes, where we may (CAP_SYS_NICE)."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _packed(family: socket.AddressFamily, address: tuple[str, int]) -> bytes:
    """struct sockaddr_in or sockaddr_in6, of an address as sockets give them."""
    host, port = address[:2]
    packed = socket.inet_pton(family, host.partition("%")[0])
    start = struct.pack("=H", family) + struct.pack("!H", port)
    if family == socket.AF_INET:
        return start + packed + bytes(8)
    _, _, flow, scope = (*address, 0, 0)[:4]
    return start + struct.pack("!I", flow) + packed + struct.pack("=I", scope)


def _addresses(sock: socket.socket) -> tuple[socket.AddressFamily, tuple[str, int], tuple[str, int]]:
    """Family and both addresses; IPv4 also where the app's socket is an IPv6 one."""
    name, peer = sock.getsockname(), sock.getpeername()
    if sock.family == socket.AF_INET6:
        mapped = [ipaddress.IPv6Address(host.partition("%")[0]).ipv4_mapped for host in (name[0], peer[0])]
        if mapped[0] is None or mapped[1] is None:
            return socket.AF_INET6, name, peer
        return socket.AF_INET, (str(mapped[0]), name[1]), (str(mapped[1]), peer[1])
    return socket.AF_INET, name, peer


def _set(sock: socket.socket, option: int, value: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _sequence(sock: socket.socket, queue: int) -> int:
    _set(sock, _REPAIR_QUEUE, queue)
    value = int(_WORD.unpack(sock.getsockopt(socket.IPPROTO_TCP, _QUEUE_SEQ, 4))[0])
    _set(sock, _REPAIR_QUEUE, _NO_QUEUE)
    return value


def _set_sequence(sock: socket.socket, queue: int, value: int) -> None:
    _set(sock, _REPAIR_QUEUE, queue)
    sock.setsockopt(socket.IPPROTO_TCP, _QUEUE_SEQ, _WORD.pack(value))
    _set(sock, _REPAIR_QUEUE, _NO_QUEUE)
