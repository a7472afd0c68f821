"""Whether anything on this laptop listens at a port, found out without connecting to it.

A connection would be seen by the app, and would use up the one that `nc -l` or a debugger waits for. So we try to
bind: where somebody listens that fails.
"""

import errno
import socket
import sys

_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


def listens(port: int, protocol: str = "TCP") -> bool:
    """Whether somebody listens at `port` on a loopback address; True if that cannot be found out."""
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    return any(_taken(family, kind, host, port) for family, host in _LOOPBACK)


def _taken(family: int, kind: socket.SocketKind, host: str, port: int) -> bool:
    try:
        with socket.socket(family, kind) as probe:
            if sys.platform == "linux" and kind == socket.SOCK_STREAM:
                # Ignores what is left of closed connections. Elsewhere it would ignore listeners on 0.0.0.0 as well.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return False
