"""Whether anything on this laptop listens at a port, found out without connecting to it.

A connection would be seen by the app, and would use up the one that `nc -l` or a debugger waits for. So we try to
bind: where somebody listens that fails.
"""

import errno
import socket
import sys

_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


def listens(port: int) -> bool:
    """Whether somebody listens at `port` on a loopback address; True if that cannot be found out."""
    return any(_taken(family, host, port) for family, host in _LOOPBACK)


def _taken(family: int, host: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if sys.platform == "linux":
                # Ignores what is left of closed connections. Elsewhere it would ignore listeners on 0.0.0.0 as well.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return False
