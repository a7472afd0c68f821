"""Which machines there are, their addresses, and the links between them.

          control (bridge, router) 10.99.0.1
     ┌─────────┬─────────┬─────────┐
   node1     node2     laptop    user
    .11       .12       .21       .22        pods of nodeN: 10.244.N.0/24, on that node's own bridge

The laptop reaches the control plane only. The user reaches nodes, and pods by routes, as somebody in the data centre.
"""

from collections.abc import Mapping

from tests.e2e.place import Place

CONTROL = "10.99.0.1"
NODES = {"node1": "10.99.0.11", "node2": "10.99.0.12"}
LAPTOP, USER = "10.99.0.21", "10.99.0.22"
PODS = {"node1": "10.244.1.0/24", "node2": "10.244.2.0/24"}
ALL_PODS = "10.244.0.0/16"
DNS = "10.96.0.10"


def join(control: Place, nodes: Mapping[str, Place], laptop: Place, user: Place) -> None:
    """Make every link, and switch forwarding on where something is forwarded."""
    ends = {**nodes, "laptop": laptop, "user": user}
    control.ip(
        "link set lo up",
        "link add br0 type bridge mcast_snooping 0",
        f"addr add {CONTROL}/24 dev br0",
        "link set br0 up",
        # Programs look for a default route to learn their own address.
        "route add default via 10.99.0.254",
        *(f"link add {name} type veth peer name eth0 netns {end.pid}" for name, end in ends.items()),
        *(f"link set {name} master br0 up" for name in ends),
        *(f"route add {PODS[name]} via {address}" for name, address in NODES.items()),
    )
    for name, node in nodes.items():
        node.ip(
            *_up(NODES[name]),
            f"route add default via {CONTROL}",
            # Kubelets look for a cloud there, and wait.
            "route add unreachable 169.254.0.0/16",
            *(f"route add {PODS[other]} via {address}" for other, address in NODES.items() if other != name),
        )
    # A laptop's own network goes elsewhere: the API server is all it reaches.
    laptop.ip(*_up(LAPTOP), f"route add default via {CONTROL}", f"route add unreachable {ALL_PODS}")
    user.ip(*_up(USER), *(f"route add {PODS[name]} via {address}" for name, address in NODES.items()))
    for place in (control, *nodes.values()):
        place.shell("echo 1 >/proc/sys/net/ipv4/ip_forward")


def _up(address: str) -> list[str]:
    return ["link set lo up", "link set eth0 up", f"addr add {address}/24 dev eth0"]
