"""What a request is about, read from method and path as the API server does before it asks whether you may."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """One request for a resource. `name` is empty for collections, `namespace` for cluster-wide requests."""

    verb: str
    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def resource(self) -> str:
        """As rules name it: `pods`, `pods/log`, `intercepts.tproxy.dev/status`."""
        qualified = f"{self.plural}.{self.group}" if self.group else self.plural
        return f"{qualified}/{self.subresource}" if self.subresource else qualified

    @property
    def details(self) -> dict[str, Any]:
        """The details of a `Status` about this request."""
        named = {"name": self.name, "group": self.group, "kind": self.plural}
        return {key: value for key, value in named.items() if value}


def parse(method: str, path: str, query: Mapping[str, str]) -> RequestInfo | None:
    """None if the path names no resource."""
    match path.strip("/").split("/"):
        case ["api", version, plural, *rest]:
            group = ""
        case ["apis", group, version, plural, *rest]:
            pass
        case _:
            return None
    namespace = ""
    if plural == "namespaces" and rest:
        namespace = rest[0]
        if len(rest) > 1 and rest[1] not in ("status", "finalize"):
            _, plural, *rest = rest
    if len(rest) > 2:
        return None
    name, subresource = (*rest, "", "")[:2]
    verb = _VERBS.get(method, method.lower())
    if not name and verb in ("get", "delete"):
        verb = {"get": "list", "delete": "deletecollection"}[verb]
    if verb == "list" and query.get("watch", "").lower() in ("1", "true"):
        verb = "watch"
    return RequestInfo(verb, group, version, plural, namespace, name, subresource)
