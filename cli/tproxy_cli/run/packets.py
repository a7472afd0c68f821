"""Messages with descriptors between the parts of a run: JSON over unix sockets that keep messages apart.

What goes over the first socket (command line and the process inside) and over the third (daemon and the process
inside) is in `inside`; what goes over the second, the daemon's, in `tproxy_cli.daemon.runs.door`.
"""

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

LONGEST = 256 * 1024
MOST_DESCRIPTORS = 32

Json = dict[str, Any]

_buffer = memoryview(bytearray(LONGEST))
"""Of the one thread that receives: to be given so much for each message takes longer than the message."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Json, descriptors: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([json.dumps(message, separators=(",", ":")).encode()], rights, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Json, list[int]] | None:
    """The next message with its descriptors, which are the caller's from now on; None when the other end is gone.

    Raises OSError, and ValueError for what is no message.
    """
    size, ancillary, flags, _ = sock.recvmsg_into(
        [_buffer], socket.CMSG_SPACE(MOST_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
    )
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = array.array("i")
            whole.frombytes(content[: len(content) - len(content) % whole.itemsize])
            descriptors += whole
    if not size:
        close(descriptors)
        return None
    try:
        message = json.loads(bytes(_buffer[:size]))
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or not isinstance(message, dict):
            raise ValueError("not a message")
    except ValueError:
        close(descriptors)
        raise
    return message, descriptors


def close(descriptors: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)
