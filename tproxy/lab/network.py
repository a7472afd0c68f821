"""The lab's network: which namespaces, links, addresses and routes there are, as input for `ip -batch`.

           laptop                   user
             │ (API server, and       │
             │ node daemons if asked) │
    ┌────────┴───────── router ───────┴───────────────┐   the router's bridge: one link, 10.99.0.0/24
    │                 API, DNS                        │
  node1 ── veth per pod                             node2 ── veth per pod

The functions that return text are pure. Nothing is ever made in the host's own namespace: veth pairs are created
inside the namespaces they join.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy.lab import addresses as plan
from tproxy.lab.addresses import Node
from tproxy.lab.layout import NETNS, Layout
from tproxy.lab.process import run
from tproxy.netns.handle import Netns

_LAPTOP_TABLE = 100

_SETTINGS = {
    # A fresh namespace copies the host's IPv4 values, so every one that matters is set.
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/all/accept_redirects": "0",
    "ipv6/conf/default/accept_redirects": "0",
    # An address is usable at once instead of after duplicate detection.
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
}
_FORWARDING = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/default/forwarding": "1",
    # A refusal that is not sent because there have been others looks like a timeout.
    "ipv4/icmp_ratelimit": "0",
    "ipv6/icmp/ratelimit": "0",
}


def places(nodes: Sequence[Node]) -> list[str]:
    """The places that exist as long as the lab does."""
    return ["router", "laptop", "user", *(node.name for node in nodes)]


def stage_links(layout: Layout, nodes: Sequence[Node]) -> list[str]:
    """Links of the router, made inside its namespace; the other places find theirs as eth0."""
    lines = ["link add br0 type bridge mcast_snooping 0"]
    for place in ["user", *(node.name for node in nodes)]:
        lines += [
            f"link add {place} type veth peer name eth0 netns {layout.netns(place)}",
            f"link set {place} master br0 up",
        ]
    lines += [
        f"link add laptop type veth peer name eth0 netns {layout.netns('laptop')}",
        "link set laptop up",
        "link set br0 up",
        "link set lo up",
        *_address("br0", plan.ROUTER, (24, 64)),
        *_address("laptop", plan.ROUTER_TO_LAPTOP, (24, 64)),
    ]
    for node in nodes:
        lines += _routes(node.pod_networks, node.addresses)
    lines += _to_user(nodes)
    # Whatever is not addressed to the router itself (the API server) is refused to the laptop.
    return [*lines, *(f"route add prohibit {route} table {_LAPTOP_TABLE}" for route in ("0.0.0.0/0", "::/0"))]


def laptop_rules(open_port: int = 0) -> list[str]:
    """The router's rules that keep the laptop out of the cluster's networks, for each address family; but for one TCP
    port of the nodes."""
    lines = [f"rule add iif laptop lookup {_LAPTOP_TABLE} priority 200"]
    if open_port:
        lines.append(f"rule add iif laptop ipproto tcp dport {open_port} lookup main priority 100")
    return lines


def place_links(place: str, nodes: Sequence[Node]) -> list[str]:
    """Addresses and routes inside a place other than the router."""
    up = ["link set lo up", "link set eth0 up"]
    if place == "laptop":
        return [*up, *_address("eth0", plan.LAPTOP, (24, 64)), *_default(plan.ROUTER_TO_LAPTOP)]
    if place == "user":
        lines = [*up, *_address("eth0", plan.USER, (24, 64))]
        return [*lines, *_routes(plan.SERVICES, nodes[0].addresses), *_routes(plan.PODS, nodes[0].addresses)]
    node = next(node for node in nodes if node.name == place)
    lines = [*up, *_address("eth0", node.addresses, (24, 64)), *_address("lo", node.gateway, (32, 128))]
    lines += _address("lo", plan.NODE_DNS, (32, 128))
    lines += _default(plan.ROUTER)
    lines += [f"route add unreachable {network}" for network in node.pod_networks]
    for other in nodes:
        if other != node:
            lines += _routes(other.pod_networks, other.addresses)
    if node != nodes[0]:
        lines += _to_user(nodes)
    return lines


def pod_links(layout: Layout, node: Node, uid: str, addresses: Sequence[str]) -> tuple[list[str], list[str]]:
    """A pod's link as made inside its node's namespace, and what is then set inside the pod's own."""
    link = link_name(uid)
    outside = [f"link add {link} type veth peer name eth0 netns {layout.pod_netns(uid)}", f"link set {link} up"]
    inside = ["link set lo up", "link set eth0 up"]
    for address in addresses:
        if ":" in address:
            # The link-local address is what the pod routes through: an IPv6 gateway must be on the link.
            outside.append(f"addr add fe80::1/64 dev {link} nodad")
            outside.append(f"route add {address}/128 dev {link} src {node.addresses[1]}")
            inside += [f"addr add {address}/128 dev eth0 nodad", "route add ::/0 via fe80::1 dev eth0"]
        else:
            outside.append(f"route add {address}/32 dev {link} src {node.addresses[0]}")
            inside += [f"addr add {address}/32 dev eth0", f"route add {node.gateway[0]}/32 dev eth0 scope link"]
            inside.append(f"route add 0.0.0.0/0 via {node.gateway[0]}")
    return outside, inside


def link_name(uid: str) -> str:
    """The node's end of a pod's link; at most 15 characters."""
    return f"pod{uid[:8]}"


async def ip(netns: str, lines: Sequence[str], *options: str) -> None:
    """Apply lines inside a named network namespace. Raises TproxyError."""
    await run("ip", "-n", netns, *options, "-batch", "-", text="\n".join(lines) + "\n")


async def create_netns(names: Sequence[str]) -> None:
    """Make named network namespaces. Raises TproxyError."""
    await run("ip", "-batch", "-", text="".join(f"netns add {name}\n" for name in names))


async def delete_netns(names: Sequence[str]) -> None:
    """Remove named network namespaces, with every link in them. Raises TproxyError."""
    await run("ip", "-force", "-batch", "-", text="".join(f"netns del {name}\n" for name in names))


def configure(netns: str, forwarding: bool) -> None:
    """Write the settings of a named network namespace. Raises TproxyError if the kernel lacks IPv6."""
    settings: Mapping[str, str] = _SETTINGS | (_FORWARDING if forwarding else {})
    handle = Netns.open(NETNS / netns)
    try:
        with handle.entered():
            if not Path("/proc/sys/net/ipv6").exists():
                raise TproxyError("the kernel has no IPv6, and the lab is dual-stack", "boot without `ipv6.disable=1`")
            for name, value in settings.items():
                Path("/proc/sys/net", name).write_text(value)
    finally:
        handle.close()


def _address(link: str, addresses: tuple[str, str], lengths: tuple[int, int]) -> list[str]:
    return [
        f"addr add {addresses[0]}/{lengths[0]} dev {link}",
        f"addr add {addresses[1]}/{lengths[1]} dev {link} nodad",
    ]


def _routes(networks: tuple[str, str], gateways: tuple[str, str]) -> list[str]:
    return [f"route add {network} via {via}" for network, via in zip(networks, gateways, strict=True)]


def _to_user(nodes: Sequence[Node]) -> list[str]:
    """Everybody answers the user through the first node: it translates Service addresses, so it must see both ways."""
    return _routes((f"{plan.USER[0]}/32", f"{plan.USER[1]}/128"), nodes[0].addresses)


def _default(gateways: tuple[str, str]) -> list[str]:
    return _routes(("0.0.0.0/0", "::/0"), gateways)
