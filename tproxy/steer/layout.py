"""The bytes of `bpf/tproxy.h`: map keys and values as the kernel program reads them."""

import socket
import struct
from collections.abc import Iterable

from tproxy.steer.port import Counters, SteeredPort

PORTS_MAP = "tproxy_ports"
LISTENERS_MAP = "tproxy_listen"
OWN_MAP = "tproxy_own"
PASSED_MAP = "tproxy_passed"
LEASE_MAP = "tproxy_lease"
PROGRAM = "tproxy_lookup"
UDP_PROGRAM = "tproxy_udp"
CLIENTS_MAP = "tproxy_clients"
PEER_PROGRAMS = ("tproxy_peer4", "tproxy_peer6")

COUNTERS_SIZE = 40
OWN_VALUE = PASSED_VALUE = b"\x01"
LEASE_KEY = bytes(4)

_PORT = struct.Struct("=HH")
_COUNTERS = struct.Struct("=QQQQQ")
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96
_PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
_LISTENER_KEYS = {socket.AF_INET: 0, socket.AF_INET6: 1}


def port_key(port: SteeredPort) -> bytes:
    """`struct tproxy_port`."""
    return _PORT.pack(port.port, _PROTOCOLS[port.protocol])


def listener_key(family: int) -> bytes:
    """The listener map's key for sockets of `family`."""
    return struct.pack("=I", _LISTENER_KEYS[socket.AddressFamily(family)])


def listener_value(fd: int) -> bytes:
    """The listener map's value: the kernel takes a descriptor and keeps the socket."""
    return struct.pack("=Q", fd)


def source_key(host: str, port: int) -> bytes:
    """`struct tproxy_source` of packets sent from numeric `host` and `port`.

    IPv4 leaves an IPv6 socket as IPv4 packets, so a mapped address is keyed as what it maps.
    """
    address, family = _address(host)
    return address + struct.pack("!H", port) + struct.pack("=H", family)


def passed_key(host: str, port: int) -> bytes:
    """`struct tproxy_passed` of packets sent from numeric `host` to the pod's `port`."""
    address, family = _address(host)
    return address + struct.pack("=HH", port, family)


def _address(host: str) -> tuple[bytes, int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        family, packed = socket.AF_INET, packed.removeprefix(_MAPPED)
    return packed.ljust(16, b"\0"), family


def lease_value(deadline: int) -> bytes:
    """The lease map's value: a CLOCK_MONOTONIC time in nanoseconds."""
    return struct.pack("=Q", deadline)


def counters(per_cpu: Iterable[bytes]) -> Counters:
    """The sum of each CPU's `struct tproxy_counters`."""
    totals = [sum(column) for column in zip(*map(_COUNTERS.unpack, per_cpu), strict=True)]
    return Counters(*totals)
