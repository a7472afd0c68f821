"""Checked reading of objects that came from the API server.

Nothing that arrives over the network is trusted to have the shape that its schema promises: every wrong type, missing
part or outsized value becomes one `InvalidError` sentence that names the object and the field.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from tproxy.errors import InvalidError

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""A name as Kubernetes has them for objects (RFC 1123 subdomain, dots not checked one by one)."""

QUOTED_LIMIT = 60
"""Characters of a foreign value that an error may repeat."""


def quote(value: object) -> str:
    """A short, single-line rendering of a foreign value for an error sentence."""
    text = repr(value) if isinstance(value, str) else type(value).__name__
    return text if len(text) <= QUOTED_LIMIT else text[:QUOTED_LIMIT] + "…"


class Fields:
    """One JSON object inside a Kubernetes object, and where it is.

    Reading a key that is absent or null gives the default, or raises `InvalidError` if there is none; a value of the
    wrong type or outside its bounds always raises.
    """

    __slots__ = ("_path", "_subject", "_value")

    def __init__(self, value: object, subject: str, path: str = "") -> None:
        if not isinstance(value, Mapping):
            raise InvalidError(f"{subject}: {path or 'the object'} must be a JSON object, not {quote(value)}")
        self._value: Mapping[str, object] = value
        self._subject = subject
        self._path = path

    @classmethod
    def of_object(cls, value: object, kind: str) -> "Fields":
        """The whole of an object that should be of `kind`, so named in errors."""
        name = namespace = None
        if isinstance(value, Mapping):
            if (seen := value.get("kind", kind)) != kind:
                raise InvalidError(f"expected an object of kind {kind}, not {quote(seen)}")
            metadata = value.get("metadata")
            if isinstance(metadata, Mapping):
                name, namespace = metadata.get("name"), metadata.get("namespace")
        parts = [part for part in (namespace, name) if isinstance(part, str) and len(part) <= 253]
        return cls(value, f"{kind} {'/'.join(parts)}" if parts else kind)

    @property
    def raw(self) -> Mapping[str, object]:
        """As it came."""
        return self._value

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys that have a value."""
        return (key for key, value in self._value.items() if value is not None)

    def invalid(self, key: str, must: str) -> InvalidError:
        """The error for `key`; `must` goes on from "must be"."""
        path = self._child(key)
        if key not in self:
            return InvalidError(f"{self._subject}: {path} is missing")
        return InvalidError(f"{self._subject}: {path} must be {must}, not {quote(self._value[key])}")

    def error(self, says: str) -> InvalidError:
        """An error about this part as a whole."""
        return InvalidError(f"{self._subject}: {self._path or 'the object'} {says}")

    def part(self, key: str) -> "Fields":
        """A nested object that must be there."""
        if key not in self:
            raise self.invalid(key, "")
        return Fields(self._value[key], self._subject, self._child(key))

    def optional(self, key: str) -> "Fields":
        """A nested object, empty if absent."""
        return self.part(key) if key in self else Fields({}, self._subject, self._child(key))

    def parts(self, key: str, limit: int) -> list["Fields"]:
        """A list of at most `limit` objects, empty if absent."""
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.invalid(key, "a list")
        if len(value) > limit:
            raise InvalidError(f"{self._subject}: {self._child(key)} has more than {limit} items")
        return [Fields(item, self._subject, f"{self._child(key)}[{i}]") for i, item in enumerate(value)]

    def named_parts(self, key: str, limit: int) -> dict[str, "Fields"]:
        """A map of at most `limit` objects by name, empty if absent."""
        part = self.optional(key)
        if len(part._value) > limit:
            raise InvalidError(f"{self._subject}: {self._child(key)} has more than {limit} entries")
        return {name: part.part(name) for name in part}

    def text(
        self,
        key: str,
        default: str | None = None,
        *,
        limit: int = 253,
        pattern: re.Pattern[str] | None = None,
        must: str = "text",
    ) -> str:
        """A string of at most `limit` characters, wholly matching `pattern` if one is given."""
        value = self._value.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.invalid(key, must)
        if len(value) > limit:
            raise self.invalid(key, f"at most {limit} characters")
        if pattern is not None and pattern.fullmatch(value) is None:
            raise self.invalid(key, must)
        return value

    def name(self, key: str, default: str | None = None) -> str:
        """The name of an object."""
        return self.text(key, default, pattern=NAME, must="a Kubernetes object name")

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        value = self._value.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.invalid(key, f"a whole number from {low} to {high}")
        return value

    def numbers(self, key: str, count: int, high: int) -> list[int]:
        """A list of exactly `count` whole numbers from 0 to `high`."""
        value = self._value.get(key)
        must = f"a list of {count} whole numbers"
        if not isinstance(value, list) or len(value) != count:
            raise self.invalid(key, must)
        for item in value:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= high:
                raise self.invalid(key, must)
        return list(value)

    def decimal(self, key: str, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self._value.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self.invalid(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def number_or_text(self, key: str, low: int, high: int, default: int) -> int | str:
        """An int-or-string, as Kubernetes has it for ports."""
        if isinstance(self._value.get(key), str):
            return self.text(key)
        return self.number(key, low, high, default)

    def flag(self, key: str) -> bool:
        """A boolean, false if absent."""
        value = self._value.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.invalid(key, "true or false")
        return value

    def time(self, key: str) -> datetime | None:
        """An RFC 3339 time in UTC, None if absent."""
        value = self._value.get(key)
        if value is None:
            return None
        try:
            time = datetime.fromisoformat(self.text(key, limit=40))
            if time.tzinfo is None:
                raise ValueError
            return time.astimezone(UTC)
        except (ValueError, OverflowError):
            raise self.invalid(key, "an RFC 3339 time") from None

    def texts(self, key: str) -> dict[str, str]:
        """A map of strings (labels, a selector), empty if absent."""
        part = self.optional(key)
        return {name: part.text(name, limit=1024) for name in part}

    def _child(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def format_time(time: datetime) -> str:
    """RFC 3339 with microseconds in UTC, as Kubernetes writes a MicroTime."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
