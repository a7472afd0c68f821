"""What the kernel holds of ours, whoever made it and whether they live: links, rules, leases, ports, counts.

Nothing here is told by the daemon. BPF objects are found by their ids and known by their names, rules by the sets that
they refer to. Needs CAP_SYS_ADMIN; TPROXY's sets CAP_NET_ADMIN in their namespace.
"""

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tproxy.netns.handle import Netns
from tproxy.steer import iptables, layout, libbpf, sk_lookup
from tproxy.steer.ipset import IpSets
from tproxy.steer.iptables_layout import owner
from tproxy.steer.port import Counters, SteeredPort

_PROGRAMS = {layout.PROGRAM: "TCP", layout.UDP_PROGRAM: "UDP"}
_MAPS = 32  # more than any program of ours uses
_PROTOCOLS = {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_UDP: "UDP"}
_PORT = struct.Struct("=HH")
_NUMBER = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Held:
    """One attachment. `lease` is the seconds that it has left, negative since it has run out, None if none ever held.

    `name` is what tools call it: the link's id, or the chain. `attached`: the link, or the rule, is there. `listeners`
    are the cookies of the sockets that it steers to, None where that cannot be seen.
    """

    backend: str
    name: str
    netns: int  # inode
    protocol: str
    attached: bool
    lease: float | None
    ports: Mapping[SteeredPort, Counters]
    listeners: frozenset[int] | None


class _ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info, as far as we look."""

    _fields_ = (
        ("_before", ctypes.c_uint8 * 52),
        ("maps", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    )
    maps: int
    map_ids: int
    name: bytes


class _MapInfo(ctypes.Structure):
    """struct bpf_map_info, as far as we look."""

    _fields_ = (("_before", ctypes.c_uint32 * 6), ("name", ctypes.c_char * 16))
    name: bytes


def by_links(netns: int | None = None) -> list[Held]:
    """Attachments of sk_lookup, of the namespace with this inode or of the whole machine. Raises OSError."""
    found: list[Held] = []
    for number in libbpf.link_ids():
        try:
            link = libbpf.open_link(number)
        except FileNotFoundError:
            continue  # it went away meanwhile
        with _closing(link):
            info = libbpf.link_info(link)
        if (info.type, info.attach_type) != (libbpf.LINK_TYPE_NETNS, libbpf.ATTACH_SK_LOOKUP):
            continue
        if netns is None or info.netns == netns:
            found += _of_link(info)
    return found


def by_rules(netns: Netns) -> list[Held]:
    """Attachments of TPROXY in one namespace; none where the kernel has no ipsets. Raises OSError."""
    with contextlib.closing(IpSets(netns)) as sets:
        try:
            names = sets.names()
        except OSError:
            return []  # the module is not loaded
        chains = dict.fromkeys(names_ for name in names if (names_ := owner(name)) is not None)
        found: list[Held] = []
        for chain in chains:
            try:
                lease = sets.timeouts(chain.lease)
                counts = {one: sets.packets(one) for one in chain.counting}
                members = counts[chain.steered]
                passed = sum((sets.packets_to(chain.passed(one)) for one in _families(chain.udp)), start=Counter[int]())
                attached = sets.references(chain.lease) > 0
            except FileNotFoundError:
                continue  # it is just being made, or removed
            protocol = "UDP" if chain.udp else "TCP"
            ports = {
                SteeredPort(port, protocol): Counters(
                    steered=members[member],
                    own=counts.get(chain.own, {}).get(member, 0),
                    lease_expired=counts[chain.late].get(member, 0),
                    passed=passed[port],
                )
                for member in members
                for port in [int(member.rpartition("-")[2])]
            }
            left = float(min(lease.values(), default=-1)) if ports else None
            found.append(Held(iptables.NAME, chain.chain, netns.id.inode, protocol, attached, left, ports, None))
        return found


def _families(udp: bool) -> tuple[int, ...]:
    return () if udp else (socket.AF_INET, socket.AF_INET6)


def _of_link(info: libbpf.LinkInfo) -> Iterator[Held]:
    try:
        program = _opened("bpf_prog_get_fd_by_id", info.program)
    except FileNotFoundError:
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_closing(program))
        ids = (ctypes.c_uint32 * _MAPS)()
        about = _ProgramInfo(maps=_MAPS, map_ids=ctypes.addressof(ids))
        _ask(program, about)
        protocol = _PROGRAMS.get(about.name.decode(errors="replace"))
        if protocol is None:
            return  # somebody else's
        maps: dict[str, libbpf.Map] = {}
        for number in ids[: min(about.maps, _MAPS)]:
            fd = _opened("bpf_map_get_fd_by_id", number)
            stack.enter_context(_closing(fd))
            described = _MapInfo()
            _ask(fd, described)
            name = described.name.decode(errors="replace")
            maps[name] = libbpf.Map(name, fd)
        yield Held(
            sk_lookup.NAME,
            f"link {info.id}",
            info.netns,
            protocol,
            True,
            _lease(maps.get(layout.LEASE_MAP)),
            dict(_ports(maps.get(layout.PORTS_MAP))),
            _listeners(maps.get(layout.LISTENERS_MAP)),
        )


def _lease(lease: libbpf.Map | None) -> float | None:
    value = lease.lookup(layout.LEASE_KEY, _NUMBER.size) if lease is not None else None
    (deadline,) = _NUMBER.unpack(value) if value is not None else (0,)
    return round((deadline - time.monotonic_ns()) / 1e9, 3) if deadline else None


def _ports(ports: libbpf.Map | None) -> Iterator[tuple[SteeredPort, Counters]]:
    for key in _keys(ports, _PORT.size):
        number, protocol = _PORT.unpack(key)
        values = ports.lookup_per_cpu(key, layout.COUNTERS_SIZE) if ports is not None else None
        if values is not None:
            yield SteeredPort(number, _PROTOCOLS.get(protocol, str(protocol))), layout.counters(values)


def _listeners(listeners: libbpf.Map | None) -> frozenset[int]:
    """Asked for a socket the kernel answers with its cookie."""
    values = [
        listeners.lookup(layout.listener_key(family), _NUMBER.size)
        for family in (socket.AF_INET, socket.AF_INET6)
        if listeners is not None
    ]
    return frozenset(_NUMBER.unpack(value)[0] for value in values if value is not None)


def _keys(entries: libbpf.Map | None, size: int) -> Sequence[bytes]:
    found: list[bytes] = []
    key: bytes | None = None
    after = ctypes.create_string_buffer(size)
    while entries is not None and libbpf.library().bpf_map_get_next_key(entries.fd, key, after) == 0:
        key = after.raw
        found.append(key)
    return found


def _opened(function: str, number: int) -> int:
    """A descriptor of the object with this id, for the caller to close. Raises OSError."""
    result: int = getattr(libbpf.library(), function)(number)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _ask(fd: int, info: ctypes.Structure) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    result: int = libbpf.library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    if result < 0:
        raise OSError(-result, os.strerror(-result))


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)
