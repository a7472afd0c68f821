"""Whether somebody translates what comes into a network namespace, as the proxy of a mesh has it done.

TPROXY's table comes before any translation: a connection that it takes from the link and that nat then redirects as
well gets no answer at all. Where arriving connections are translated the proxy's own calls to the app, which come over
the loopback link, are the ones to take.
"""

import contextlib
import socket
import struct

import iptc

from tproxy.netns.netlink import Netlink, attributes

_NETLINK_NETFILTER = 12
_GETCHAIN = (10 << 8) | 4  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN
_GENERIC = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)  # struct nfgenmsg
_FAMILIES = {socket.AF_INET: 2, socket.AF_INET6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6
_INET = 1
_HOOK, _USE, _TYPE = 4, 6, 7  # attributes of a chain
_HOOK_NUMBER = 1
_PREROUTING = 0
_KIND = 0x3FFF  # an attribute's type without its flags

_LEGACY = {
    socket.AF_INET: ("/proc/self/net/ip_tables_names", iptc.Table),
    socket.AF_INET6: ("/proc/self/net/ip6_tables_names", iptc.Table6),
}


def is_translated(family: socket.AddressFamily) -> bool:
    """Whether a nat table of the calling process' namespace has rules for what arrives, by nf_tables or iptables.

    Reads only; a table that is not there is not made by asking. For processes like those of `iptables_rules`.
    """
    return _by_nftables(family) or _by_iptables(family)


def _by_nftables(family: socket.AddressFamily) -> bool:
    with contextlib.closing(Netlink(_NETLINK_NETFILTER)) as netlink:
        try:
            chains = list(netlink.dump(_GETCHAIN, _GENERIC))
        except OSError:
            return False  # a kernel without nf_tables
    return any(chain[0] in (_INET, _FAMILIES[family]) and _translates(chain[len(_GENERIC) :]) for chain in chains)


def _translates(chain: bytes) -> bool:
    found = {kind & _KIND: value for kind, value in attributes(chain)}
    if found.get(_TYPE, b"").rstrip(b"\0") != b"nat" or _HOOK not in found:
        return False
    hook = {kind & _KIND: value for kind, value in attributes(found[_HOOK])}
    number = int.from_bytes(hook.get(_HOOK_NUMBER, b"\xff"))
    return number == _PREROUTING and int.from_bytes(found.get(_USE, b"")) > 0


def _by_iptables(family: socket.AddressFamily) -> bool:
    names, kind = _LEGACY[family]
    try:
        with open(names, encoding="ascii") as file:
            present = file.read().split()
    except OSError:
        return False
    return "nat" in present and kind(kind.NAT, autocommit=False).first_rule("PREROUTING") is not None
