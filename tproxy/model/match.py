"""Which requests a personal intercept is for.

The vocabulary is the Gateway API's HTTPRouteMatch. All conditions of a Match must hold (AND).
"""

import enum
import re
from dataclasses import dataclass
from typing import Any

from tproxy.errors import InvalidError
from tproxy.model.fields import Fields

MAX_HEADERS = 16

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_METHOD = re.compile(r"[A-Z]{1,32}")


class MatchKind(enum.Enum):
    """How a value is compared."""

    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


@dataclass(frozen=True, slots=True, order=True)
class HeaderMatch:
    """A condition on one header. `name` is lower case."""

    name: str
    value: str
    regex: bool = False


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A condition on the path."""

    value: str
    kind: MatchKind = MatchKind.EXACT


@dataclass(frozen=True, slots=True)
class Match:
    """At least one condition; equal if the conditions are, whatever the order in which they were written."""

    headers: tuple[HeaderMatch, ...] = ()
    path: PathMatch | None = None
    method: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", tuple(sorted(set(self.headers))))
        if not self.headers and self.path is None and not self.method:
            raise InvalidError("a match needs at least one condition")

    @classmethod
    def from_fields(cls, fields: Fields) -> "Match":
        """Parse `spec.match`. A condition we don't know is refused: ignoring it would match more than was asked."""
        for key in fields:
            if key not in ("headers", "path", "method"):
                raise fields.invalid(key, "absent (this version does not know it)")
        headers = tuple(_header(item) for item in fields.parts("headers", MAX_HEADERS))
        path = _path(fields.part("path")) if "path" in fields else None
        method = fields.text("method", "", limit=32, pattern=_METHOD, must="an HTTP method in capitals")
        if not headers and path is None and not method:
            raise fields.error("needs at least one condition")
        return cls(headers, path, method)

    def to_object(self) -> dict[str, Any]:
        """`spec.match`."""
        obj: dict[str, Any] = {}
        if self.headers:
            obj["headers"] = [
                {
                    "name": header.name,
                    "type": (MatchKind.REGEX if header.regex else MatchKind.EXACT).value,
                    "value": header.value,
                }
                for header in self.headers
            ]
        if self.path is not None:
            obj["path"] = {"type": self.path.kind.value, "value": self.path.value}
        if self.method:
            obj["method"] = self.method
        return obj


def _header(fields: Fields) -> HeaderMatch:
    name = fields.text("name", limit=128, pattern=_HEADER_NAME, must="a header name")
    kind = _kind(fields, {MatchKind.EXACT, MatchKind.REGEX})
    return HeaderMatch(name.lower(), fields.text("value", limit=1024), kind is MatchKind.REGEX)


def _path(fields: Fields) -> PathMatch:
    return PathMatch(fields.text("value", limit=1024), _kind(fields, set(MatchKind)))


def _kind(fields: Fields, allowed: set[MatchKind]) -> MatchKind:
    text = fields.text("type", MatchKind.EXACT.value)
    for kind in allowed:
        if kind.value == text:
            return kind
    raise fields.invalid("type", "one of " + ", ".join(sorted(kind.value for kind in allowed)))
