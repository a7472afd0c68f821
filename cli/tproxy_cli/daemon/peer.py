"""Who is at the other end of a unix socket, as the kernel knows it."""

import socket
import struct
import sys

_LOCAL_PEERCRED = 0x001  # macOS <sys/un.h>; Python has no name for it
_SOL_LOCAL = 0
_XUCRED = struct.Struct("=II")  # cr_version, cr_uid: the beginning of struct xucred
_UCRED = struct.Struct("=iII")  # pid, uid, gid


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process that connected. Raises OSError."""
    if sys.platform == "darwin":
        return int(_XUCRED.unpack(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)[: _XUCRED.size])[1])
    return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])
