"""The node's own network namespace, as whoever has the node's /proc finds it."""

from pathlib import Path

from tproxy.netns.addresses import IPAddress, addresses_of
from tproxy.netns.handle import Netns

_KTHREADD = "kthreadd"


def open_node_netns(proc: Path) -> Netns:
    """Process 1's. Where even root is kept from that, kthreadd's: it has never left the first one. Raises OSError."""
    try:
        return Netns.open(proc / "1" / "ns" / "net")
    except PermissionError:
        if (proc / "2" / "comm").read_text().strip() != _KTHREADD:
            raise
        return Netns.open(proc / "2" / "ns" / "net")


def node_addresses(proc: Path, without_link: str = "") -> frozenset[IPAddress]:
    """Every address of the node, without those of one link. Raises OSError."""
    netns = open_node_netns(proc)
    try:
        return addresses_of(netns, without_link=without_link)
    finally:
        netns.close()
