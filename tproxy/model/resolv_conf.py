"""A resolver's configuration, as resolv.conf(5) has it. Pure."""

import ipaddress
import re
from dataclasses import dataclass

MAX_BYTES = 16 * 1024
MAX_NAMESERVERS = 3
MAX_SEARCH = 32
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")

DEFAULT_TIMEOUT_SECONDS = 5
DEFAULT_ATTEMPTS = 2
MAX_TIMEOUT_SECONDS = 30
MAX_ATTEMPTS = 5
MAX_NDOTS = 15


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """`nameservers` are numeric, `search` has no final dots, `timeout` is in seconds per attempt and server."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: int = DEFAULT_TIMEOUT_SECONDS
    attempts: int = DEFAULT_ATTEMPTS
    rotate: bool = False
    use_tcp: bool = False

    @property
    def cluster_domain(self) -> str:
        """The cluster's domain, from the search list that the kubelet writes (`svc.DOMAIN`); else `cluster.local`."""
        found = [domain[len("svc.") :] for domain in self.search if domain.startswith("svc.")]
        return found[0] if found else "cluster.local"

    def render(self, nameservers: tuple[str, ...] | None = None) -> str:
        """The text of a resolv.conf like this, with other `nameservers` if given."""
        lines = [f"search {' '.join(self.search)}"] if self.search else []
        lines += [f"nameserver {address}" for address in (self.nameservers if nameservers is None else nameservers)]
        options = [f"ndots:{self.ndots}"] if self.ndots != 1 else []
        options += [f"timeout:{self.timeout}"] if self.timeout != DEFAULT_TIMEOUT_SECONDS else []
        options += [f"attempts:{self.attempts}"] if self.attempts != DEFAULT_ATTEMPTS else []
        options += [word for word, given in (("rotate", self.rotate), ("use-vc", self.use_tcp)) if given]
        lines += [f"options {' '.join(options)}"] if options else []
        return "".join(f"{line}\n" for line in lines)


def parse_resolv_conf(text: str) -> ResolvConf:
    """What a resolver makes of `text`, which may be anybody's: nonsense in it counts as absent."""
    nameservers: list[str] = []
    search: list[str] = []
    options: dict[str, str] = {}
    for line in text[:MAX_BYTES].splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        match words:
            case ["nameserver", address, *_] if (numeric := _numeric(address)) is not None:
                nameservers.append(numeric)
            case ["search", *domains]:
                search = [domain.rstrip(".").lower() for domain in domains]
            case ["domain", domain, *_]:
                search = [domain.rstrip(".").lower()]
            case ["options", *given]:
                options |= dict(word.partition(":")[::2] for word in given)
    return ResolvConf(
        nameservers=tuple(nameservers[:MAX_NAMESERVERS]),
        search=tuple(domain for domain in search if _is_domain(domain))[:MAX_SEARCH],
        ndots=_number(options, "ndots", 1, 0, MAX_NDOTS),
        timeout=_number(options, "timeout", DEFAULT_TIMEOUT_SECONDS, 1, MAX_TIMEOUT_SECONDS),
        attempts=_number(options, "attempts", DEFAULT_ATTEMPTS, 1, MAX_ATTEMPTS),
        rotate="rotate" in options,
        use_tcp="use-vc" in options,
    )


def candidates(name: str, configuration: ResolvConf) -> list[str]:
    """The full names, without final dot, that a resolver tries for `name`, in order (resolv.conf(5): search, ndots)."""
    if name.endswith("."):
        return [name.rstrip(".")]
    qualified = [f"{name}.{domain}" for domain in configuration.search]
    return [name, *qualified] if name.count(".") >= configuration.ndots else [*qualified, name]


def _numeric(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _is_domain(domain: str) -> bool:
    return 0 < len(domain) <= 253 and all(_LABEL.fullmatch(label) for label in domain.split("."))


def _number(options: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = options.get(name, "")
    return max(least, min(int(text), most)) if text.isascii() and text.isdecimal() else default
