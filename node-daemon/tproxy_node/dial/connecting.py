"""One connection out of a pod to the first of several addresses that answers (RFC 8305)."""

import asyncio
import ipaddress
import itertools
import socket
from asyncio.staggered import staggered_race
from collections.abc import Sequence
from functools import partial

from tproxy import connecting
from tproxy.model.dial_policy import IPAddress
from tproxy_node.dial.origins import Origin

CONNECT_SECONDS = 30.0
STAGGER_SECONDS = 0.25
"""RFC 8305 section 8: the delay between attempts."""

MAX_ADDRESSES = 8


async def connect(origin: Origin, addresses: Sequence[IPAddress], port: int) -> socket.socket:
    """A connected TCP socket. Raises OSError: that of the first address."""
    async with asyncio.timeout(CONNECT_SECONDS):
        if len(addresses) == 1:
            return await _connect(origin, addresses[0], port)
        ordered = in_order(origin, addresses)
        winner: socket.socket | None
        winner, _, failures = await staggered_race(
            [partial(_connect, origin, address, port) for address in ordered], STAGGER_SECONDS
        )
    if winner is None:
        raise next((error for error in failures if isinstance(error, OSError)), TimeoutError())
    return winner


def connect_udp(origin: Origin, addresses: Sequence[IPAddress], port: int) -> socket.socket:
    """A UDP socket connected to the first address there is a route to. Raises OSError."""
    failure: OSError | None = None
    for address in in_order(origin, addresses):
        try:
            return _udp(origin, address, port)
        except OSError as error:
            failure = failure or error
    raise failure or OSError("no address")


def in_order(origin: Origin, addresses: Sequence[IPAddress]) -> list[IPAddress]:
    """At most `MAX_ADDRESSES`, both families in turn, IPv6 first; without a route comes last (RFC 6724, rule 1)."""
    unique = list(dict.fromkeys(addresses))
    by_family = [[one for one in unique if one.version == version] for version in (6, 4)]
    mixed = [one for pair in itertools.zip_longest(*by_family) for one in pair if one is not None][:MAX_ADDRESSES]
    return sorted(mixed, key=lambda address: not _routed(origin, address)) if len(mixed) > 1 else mixed


def _routed(origin: Origin, address: IPAddress) -> bool:
    """Connecting a UDP socket looks for a route and sends nothing."""
    try:
        _udp(origin, address, 9).close()
    except OSError:
        return False
    return True


def _udp(origin: Origin, address: IPAddress, port: int) -> socket.socket:
    sock = origin.socket(_family(address), socket.SOCK_DGRAM)
    try:
        sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(origin: Origin, address: IPAddress, port: int) -> socket.socket:
    sock = origin.socket(_family(address), socket.SOCK_STREAM)
    try:
        await connecting.connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _family(address: IPAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if isinstance(address, ipaddress.IPv6Address) else socket.AF_INET
