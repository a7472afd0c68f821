"""Which requests a personal intercept is for.

The vocabulary is the Gateway API's HTTPRouteMatch, and W3C baggage beside it. All conditions of a Match must hold
(AND). What they mean for a request is written down in `tproxy.model.matching`.
"""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tproxy.errors import InvalidError
from tproxy.model import pattern
from tproxy.model.fields import Fields

MAX_HEADERS = 16
MAX_BAGGAGE = 16
VALUE_LIMIT = 1024
TEXT_LIMIT = 120

TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
"""A header's name, and a baggage entry's (RFC 9110 section 5.6.2)."""

METHOD = re.compile(r"[A-Z]{1,32}")


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

    def __str__(self) -> str:
        return f"{self.name}={'~' if self.regex else ''}{self.value}"


@dataclass(frozen=True, slots=True, order=True)
class BaggageMatch:
    """A condition on one entry of the `baggage` header. `name` is as it is: entries have a case."""

    name: str
    value: str
    regex: bool = False

    def __str__(self) -> str:
        return f"baggage:{self.name}={'~' if self.regex else ''}{self.value}"


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A condition on the path. A prefix counts whole elements: `/a` has `/a` and `/a/b` in it, not `/ab`."""

    value: str
    kind: MatchKind = MatchKind.EXACT

    def __str__(self) -> str:
        if self.kind is MatchKind.PREFIX:
            return f"path={self.value.rstrip('/')}/*"
        return f"path={'~' if self.kind is MatchKind.REGEX else ''}{self.value}"


Condition = HeaderMatch | BaggageMatch | PathMatch | str
"""A method is a string."""


@dataclass(frozen=True, slots=True)
class Match:
    """At least one condition; equal if the conditions are, whatever the order in which they were written."""

    headers: tuple[HeaderMatch, ...] = ()
    path: PathMatch | None = None
    method: str = ""
    baggage: tuple[BaggageMatch, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", tuple(sorted(set(self.headers))))
        object.__setattr__(self, "baggage", tuple(sorted(set(self.baggage))))
        if not self.conditions:
            raise InvalidError("a match needs at least one condition")

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All of them."""
        return tuple(self._conditions())

    def _conditions(self) -> Iterator[Condition]:
        yield from self.headers
        yield from self.baggage
        if self.path is not None:
            yield self.path
        if self.method:
            yield self.method

    def __str__(self) -> str:
        """`x-user=ada,path=/api/*,method=POST`; at most `TEXT_LIMIT` characters."""
        text = ",".join(f"method={each}" if isinstance(each, str) else str(each) for each in self.conditions)
        return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"

    @classmethod
    def from_fields(cls, fields: Fields) -> "Match":
        """Parse `spec.match`. A condition we don't know is refused: ignoring it would match more than was asked."""
        for key in fields:
            if key not in ("headers", "baggage", "path", "method"):
                raise fields.invalid(key, "absent (this version does not know it)")
        headers = tuple(_header(item) for item in fields.parts("headers", MAX_HEADERS))
        baggage = tuple(_baggage(item) for item in fields.parts("baggage", MAX_BAGGAGE))
        path = _path(fields.part("path")) if "path" in fields else None
        method = fields.text("method", "", limit=32, pattern=METHOD, must="an HTTP method in capitals")
        if not headers and not baggage and path is None and not method:
            raise fields.error("needs at least one condition")
        return cls(headers, path, method, baggage)

    def to_object(self) -> dict[str, Any]:
        """`spec.match`."""
        obj: dict[str, Any] = {}
        if self.headers:
            obj["headers"] = [_named(header) for header in self.headers]
        if self.baggage:
            obj["baggage"] = [_named(entry) for entry in self.baggage]
        if self.path is not None:
            obj["path"] = {"type": self.path.kind.value, "value": self.path.value}
        if self.method:
            obj["method"] = self.method
        return obj


def _named(condition: HeaderMatch | BaggageMatch) -> dict[str, str]:
    kind = MatchKind.REGEX if condition.regex else MatchKind.EXACT
    return {"name": condition.name, "type": kind.value, "value": condition.value}


def _header(fields: Fields) -> HeaderMatch:
    name = fields.text("name", limit=128, pattern=TOKEN, must="a header name")
    kind, value = _value(fields, {MatchKind.EXACT, MatchKind.REGEX})
    return HeaderMatch(name.lower(), value, kind is MatchKind.REGEX)


def _baggage(fields: Fields) -> BaggageMatch:
    name = fields.text("name", limit=128, pattern=TOKEN, must="the name of a baggage entry")
    kind, value = _value(fields, {MatchKind.EXACT, MatchKind.REGEX})
    return BaggageMatch(name, value, kind is MatchKind.REGEX)


def _path(fields: Fields) -> PathMatch:
    kind, value = _value(fields, set(MatchKind))
    return PathMatch(value, kind)


def _value(fields: Fields, allowed: set[MatchKind]) -> tuple[MatchKind, str]:
    text = fields.text("type", MatchKind.EXACT.value)
    kind = next((kind for kind in allowed if kind.value == text), None)
    if kind is None:
        raise fields.invalid("type", "one of " + ", ".join(sorted(kind.value for kind in allowed)))
    value = fields.text("value", limit=VALUE_LIMIT)
    if kind is MatchKind.REGEX:
        try:
            pattern.compile_pattern(value)
        except ValueError as error:
            raise fields.invalid("value", f"a regular expression ({error})") from None
    return kind, value
