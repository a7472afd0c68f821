"""Whether somebody translates what comes into a network namespace, as the proxy of a mesh has it done.

TPROXY's table comes before any translation: a connection that it takes from the link and that nat then redirects as
well reaches nobody. Where arriving connections are translated the proxy's own calls to the app, which come over the
loopback link, are the ones to take. Everything here only reads, and sets up nothing in the kernel by asking.
"""

import contextlib
import socket
import struct

from tproxy.netns.netlink import Netlink, attributes

_NETLINK_NETFILTER = 12
_GETCHAIN = (10 << 8) | 4  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN
_GENERIC = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)  # struct nfgenmsg
_FAMILIES = {1: (socket.AF_INET, socket.AF_INET6), 2: (socket.AF_INET,), 10: (socket.AF_INET6,)}  # NFPROTO_...
_HOOK, _USE, _TYPE = 4, 6, 7  # attributes of a chain
_HOOK_NUMBER = 1
_PREROUTING = 0
_KIND = 0x3FFF  # an attribute's type without its flags

_TABLES = {
    socket.AF_INET: "/proc/thread-self/net/ip_tables_names",
    socket.AF_INET6: "/proc/thread-self/net/ip6_tables_names",
}


def by_nftables() -> frozenset[int]:
    """The address families for which a nat chain of the calling thread's namespace has rules for what arrives."""
    with contextlib.closing(Netlink(_NETLINK_NETFILTER)) as netlink:
        try:
            chains = list(netlink.dump(_GETCHAIN, _GENERIC))
        except OSError:
            return frozenset()  # a kernel without nf_tables
    found = (_FAMILIES.get(chain[0], ()) for chain in chains if _translates(chain[len(_GENERIC) :]))
    return frozenset(family for families in found for family in families)


def has_nat_table(family: int) -> bool:
    """Whether iptables (legacy) has a nat table in the calling thread's namespace, with rules or without."""
    try:
        with open(_TABLES[socket.AddressFamily(family)], encoding="ascii") as file:
            return "nat" in file.read().split()
    except OSError:
        return False


def _translates(chain: bytes) -> bool:
    found = {kind & _KIND: value for kind, value in attributes(chain)}
    if found.get(_TYPE, b"").rstrip(b"\0") != b"nat" or _HOOK not in found:
        return False
    hook = {kind & _KIND: value for kind, value in attributes(found[_HOOK])}
    number = int.from_bytes(hook.get(_HOOK_NUMBER, b"\xff"))
    return number == _PREROUTING and int.from_bytes(found.get(_USE, b"")) > 0
