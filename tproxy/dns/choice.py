"""Who answers for a name: the cluster, the laptop's resolvers, or nobody. Pure."""

import enum
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tproxy.dns.wire import PTR, Question
from tproxy.model.resolv_conf import ResolvConf


class Authority(enum.Enum):
    """Who is asked."""

    CLUSTER = "cluster"
    LAPTOP = "laptop"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Choice:
    """Decides by the cluster's resolver configuration, the laptop's search list and who an address belongs to.

    The cluster's are names in its own domain, and in those domains of the pod's search list that the laptop does not
    search as well: the kubelet hands on what its node searches, which is often a private zone of the cloud.
    """

    cluster: ResolvConf
    laptop_search: tuple[str, ...]
    owns: Callable[[str], bool]

    def of(self, question: Question) -> Authority:
        """Who is to be asked that."""
        if self._clusters(question.name):
            # Browsers and others look for a proxy by this name, in whatever domains they search (WPAD).
            return Authority.NOBODY if question.name.startswith("wpad.") else Authority.CLUSTER
        if question.kind == PTR and (address := address_of(question.name)) is not None and self.owns(address):
            return Authority.CLUSTER
        return Authority.LAPTOP

    def _clusters(self, name: str) -> bool:
        searched = (domain for domain in self.cluster.search if domain not in self.laptop_search)
        return any(_below(name, domain) for domain in (self.cluster.cluster_domain, *searched))


def inner_search(cluster: Iterable[str], laptop: Iterable[str]) -> tuple[str, ...]:
    """The search list for programs: the pod's, then what the laptop searches, as far as every resolver takes it."""
    chosen: list[str] = []
    length = 0
    for number, domain in enumerate(dict.fromkeys((*cluster, *laptop))):
        length += len(domain) + 1
        # musl passes over a search list of more than 255 characters, glibc before 2.26 over a seventh domain.
        if number >= 6 or length > 255:
            break
        chosen.append(domain)
    return tuple(chosen)


def address_of(name: str) -> str | None:
    """The address that a reverse name is for (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    try:
        if name.endswith(".in-addr.arpa"):
            return str(ipaddress.IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split(".")))))
        if name.endswith(".ip6.arpa"):
            digits = name.removesuffix(".ip6.arpa").split(".")
            if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
                return str(ipaddress.IPv6Address(int("".join(reversed(digits)), 16)))
    except ValueError:
        pass
    return None


def _below(name: str, domain: str) -> bool:
    return name == domain or name.endswith(f".{domain}")
