"""Connecting sockets to numeric addresses without anybody's help.

uvloop's `sock_connect` has a thread look up what an address means, also a numeric one: most of what a connection takes.
"""

import asyncio
import errno
import os
import socket

Address = tuple[str, int] | tuple[str, int, int, int]
"""As sockets have it: host and port, of IPv6 also flow and scope."""

_UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)


async def connect(sock: socket.socket, address: Address) -> None:
    """Connect a non-blocking socket, or wait for a connect that has begun. Raises OSError; it stays the caller's."""
    number = sock.connect_ex(address)
    if number in _UNDER_WAY:
        loop = asyncio.get_running_loop()
        writable = loop.create_future()
        loop.add_writer(sock, _done, writable)
        try:
            await writable
        finally:
            loop.remove_writer(sock)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _done(writable: "asyncio.Future[None]") -> None:
    if not writable.done():
        writable.set_result(None)
