"""Who asks, and what they may: static bearer tokens, known addresses, and a small table of rules."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tproxy.errors import DeniedError
from tproxy.lab.api.errors import UnauthorizedError
from tproxy.lab.api.request import RequestInfo

READ = frozenset({"get", "list", "watch"})
WRITE = frozenset({"create", "update", "patch", "delete", "deletecollection"})
ANY = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Rule:
    """Verbs on resources (`pods`, `pods/log`, `intercepts.tproxy.dev`); in every namespace if `namespace` is empty."""

    verbs: frozenset[str]
    resources: frozenset[str]
    namespace: str = ""

    def allows(self, info: RequestInfo) -> bool:
        """Whether this rule alone suffices for the request."""
        return (
            not self.verbs.isdisjoint((info.verb, "*"))
            and not self.resources.isdisjoint((info.resource, "*"))
            and self.namespace in ("", info.namespace)
        )


@dataclass(frozen=True, slots=True)
class User:
    """An identity and its rights."""

    name: str
    groups: tuple[str, ...] = ("system:authenticated",)
    rules: tuple[Rule, ...] = ()

    def may(self, info: RequestInfo) -> bool:
        """Whether any rule allows the request."""
        return any(rule.allows(info) for rule in self.rules)

    def authorise(self, info: RequestInfo) -> None:
        """Raise DeniedError, worded as Kubernetes does, unless the request is allowed."""
        if self.may(info):
            return
        what = replace(info, subresource="").resource + (f' "{info.name}"' if info.name else "")
        resource = f"{info.plural}/{info.subresource}" if info.subresource else info.plural
        where = f'in the namespace "{info.namespace}"' if info.namespace else "at the cluster scope"
        raise DeniedError(
            f'{what} is forbidden: User "{self.name}" cannot {info.verb} resource "{resource}"'
            f' in API group "{info.group}" {where}'
        )


def admin(name: str = "admin") -> User:
    """Someone who may do everything."""
    return User(name, ("system:masters", "system:authenticated"), (Rule(ANY, ANY),))


def viewer(name: str) -> User:
    """Someone who may look at everything and change nothing."""
    return User(name, rules=(Rule(READ, ANY),))


def nobody(name: str = "nobody") -> User:
    """Someone known who may do nothing but ask what they may."""
    return User(name)


def authenticate(header: str, address: str | None, tokens: Mapping[str, User], peers: Mapping[str, User]) -> User:
    """The user of an `Authorization` header or, without one, of a trusted address. Raises UnauthorizedError.

    kubectl sends no credentials over plain HTTP, whatever its kubeconfig says, and TLS would cost the port-forwards of
    a stage more than it shows. So the laptop is known by its address, as behind `kubectl proxy`.
    """
    if not header:
        if (peer := peers.get(address or "")) is not None:
            return peer
        raise UnauthorizedError("Unauthorized")
    scheme, _, token = header.partition(" ")
    if scheme.lower() == "bearer":
        for known, user in tokens.items():
            if hmac.compare_digest(known.encode(), token.strip().encode()):
                return user
    raise UnauthorizedError("Unauthorized")
