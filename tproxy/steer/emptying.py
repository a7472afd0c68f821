"""Waits until nothing is on its way to listeners that get no new connections any more."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Container, Sequence

from tproxy.netns.handle import Netns
from tproxy.steer.drain import Drain
from tproxy.steer.listeners import queued
from tproxy.steer.sock_diag import HandshakeList

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.005  # seconds between two looks, doubling up to the longest
_LONGEST_PAUSE = 0.04


async def emptied(
    netns: Netns,
    listeners: Sequence[socket.socket],
    ports: Container[int],
    closed: Callable[[], bool],
    timeout: float,  # noqa: ASYNC109 - running out of time is an answer
) -> bool:
    """Wait for handshakes towards `ports` and for the accept queues of `listeners`, all in `netns`.

    False after `timeout` seconds, and when `closed()`: the listeners are then gone.
    """
    deadline = time.monotonic() + timeout
    drain = Drain()
    pause = _FIRST_PAUSE
    try:
        with contextlib.closing(HandshakeList(netns)) as handshakes:
            while not closed() and time.monotonic() < deadline:
                if drain.observe(handshakes.towards(ports), sum(map(queued, listeners))):
                    return True
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
    except OSError as error:
        # Not knowing what is still to come, take the time that there is.
        log.warning("cannot see the handshakes in progress: %s", error, extra={"netns": netns.id.inode})
        await asyncio.sleep(deadline - time.monotonic())
    return False
