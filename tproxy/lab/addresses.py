"""The lab's addressing plan, the same in every lab: labs cannot see each other.

10.99.0.0/24  fd99::/64     one link: router .1, nodes .11 .12 ..., the outside user .100
10.99.1.0/24  fd99:1::/64   the laptop .2 and its router .1
10.244.N.0/24 fd24:N::/64   pods of node N, gateway .1
10.96.0.0/16  fd96::/112    Services; DNS 10.96.0.10
"""

from dataclasses import dataclass

from tproxy.errors import TproxyError

API_PORT = 6443
DNS_PORT = 53
DNS_SERVICE = ("10.96.0.10", "fd96::a")
NODE_DNS = ("169.254.20.10", "fd99:20::10")
"""A DNS server on every node, for pods that name it in their `dnsConfig`, as NodeLocal DNSCache has it."""
CLUSTER_DOMAIN = "cluster.local"

SERVICES = ("10.96.0.0/16", "fd96::/112")
PODS = ("10.244.0.0/16", "fd24::/16")

ROUTER = ("10.99.0.1", "fd99::1")
ROUTER_TO_LAPTOP = ("10.99.1.1", "fd99:1::1")
LAPTOP = ("10.99.1.2", "fd99:1::2")
USER = ("10.99.0.100", "fd99::100")

API_URL = f"http://{ROUTER[0]}:{API_PORT}"
MAX_NODES = 9


@dataclass(frozen=True, slots=True)
class Node:
    """Node number `index`, from 1."""

    index: int

    @property
    def name(self) -> str:
        """Name of the node, and of its place."""
        return f"node{self.index}"

    @property
    def addresses(self) -> tuple[str, str]:
        """Its IPv4 and IPv6 address on the common link."""
        return f"10.99.0.{10 + self.index}", f"fd99::{10 + self.index}"

    @property
    def gateway(self) -> tuple[str, str]:
        """What its pods route through."""
        return f"10.244.{self.index}.1", f"fd24:{self.index}::1"

    @property
    def pod_networks(self) -> tuple[str, str]:
        """Where its pods' addresses come from."""
        return f"10.244.{self.index}.0/24", f"fd24:{self.index}::/64"

    def pod_addresses(self, host: int) -> tuple[str, str]:
        """The addresses of the pod with host number `host`."""
        return f"10.244.{self.index}.{host}", f"fd24:{self.index}::{host:x}"


class PodAddresses:
    """Host numbers of one node's pods. A number that has just been given back comes last."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._free = list(range(2, 255))

    def take(self) -> int:
        """A free host number. Raises TproxyError if there is none."""
        if not self._free:
            raise TproxyError(f"{self._node.name} has no free pod address", "delete some pods")
        return self._free.pop(0)

    def give_back(self, host: int) -> None:
        """Make a host number free again."""
        self._free.append(host)
