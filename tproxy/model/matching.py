"""Whether a request is one of those that a `Match` means.

    method     compared as it is
    path       of the request target as it was sent, without query and fragment: nothing is decoded or normalised.
               The absolute form counts by its path, `OPTIONS *` is `*`, and CONNECT has none (empty).
               A prefix counts whole elements: `/a` has `/a`, `/a/` and `/a/b` in it, not `/ab`.
    header     any field line of that name (without regard to case) whose value, without white space around it, is
               the one asked for; lists are not taken apart. HTTP/2's `:authority` counts as `host`.
    baggage    any entry of any `baggage` line (W3C Baggage): names have a case, values are percent-decoded,
               properties (`;…`) don't count
    regex      RE2, of the whole value (see `tproxy.model.pattern`)

Values are compared as UTF-8 bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from tproxy.model.match import BaggageMatch, HeaderMatch, Match, MatchKind, PathMatch
from tproxy.model.pattern import as_bytes, compile_pattern

BAGGAGE = b"baggage"
MAX_ENTRIES = 256
"""Entries of one baggage line that are looked at; the W3C asks for 64 to be carried."""

FEW = 4
"""So many matches are looked at one by one; of more, only those that a header of the request speaks for."""

T = TypeVar("T")
Fields = Mapping[bytes, Sequence[bytes]]
"""Values of the wanted headers by lower-case name."""

Predicate = Callable[[bytes, bytes, Fields], bool]
"""Of method, path (see `path_of`) and fields."""


class Chooser(Generic[T]):
    """Finds the first of several matches that a request is one of, each leading to some `T`.

    The order is the precedence (`tproxy.model.conflict`). Immutable.
    """

    __slots__ = ("_by_field", "_choices", "_others", "_wanted")

    def __init__(self, choices: Iterable[tuple[Match, T]]) -> None:
        listed = list(choices)
        self._choices = [(_compile(match), result) for match, result in listed]
        self._by_field: dict[tuple[bytes, bytes], list[int]] = {}  # where there are many: by a header they need
        self._others: list[int] = []
        for number, (match, _) in enumerate(listed if len(listed) > FEW else ()):
            exact = next((header for header in match.headers if not header.regex), None)
            if exact is None:
                self._others.append(number)
            else:
                self._by_field.setdefault((exact.name.encode(), as_bytes(exact.value)), []).append(number)
        names = {header.name.encode() for match, _ in listed for header in match.headers}
        if any(match.baggage for match, _ in listed):
            names.add(BAGGAGE)
        self._wanted = frozenset(names)

    @property
    def wanted(self) -> frozenset[bytes]:
        """The header fields that are looked at, in lower case."""
        return self._wanted

    def choose(self, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> T | None:
        """The result for a request with this method, request target (or `:path`) and these header fields, if any."""
        fields: dict[bytes, list[bytes]] = {}
        wanted = self._wanted
        if wanted:
            for name, value in headers:
                lower = name.lower()
                if lower in wanted:
                    fields.setdefault(lower, []).append(value.strip(b" \t"))
        path = path_of(target)
        for holds, result in self._candidates(fields) if self._by_field else self._choices:
            if holds(method, path, fields):
                return result
        return None

    def _candidates(self, fields: Fields) -> "list[tuple[Predicate, T]]":
        """In order, those whose one header is there."""
        numbers = list(self._others)
        for name, values in fields.items():
            for value in values:
                numbers += self._by_field.get((name, value), ())
        return [self._choices[number] for number in sorted(set(numbers))]


def path_of(target: bytes) -> bytes:
    """The path of a request target (RFC 9112 section 3.2), without query; empty for the authority form."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if path.startswith(b"/") or path == b"*":
        return path
    _, scheme, rest = path.partition(b"://")
    if not scheme:
        return b""
    _, slash, below = rest.partition(b"/")
    return slash + below or b"/"


def baggage_entries(line: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and decoded values of a `baggage` header; what is no entry is passed over."""
    for member in line.split(b",", MAX_ENTRIES)[:MAX_ENTRIES]:
        name, equals, value = member.partition(b";")[0].partition(b"=")
        if equals and name.strip(b" \t"):
            yield name.strip(b" \t"), unquote_to_bytes(value.strip(b" \t"))


def _compile(match: Match) -> Predicate:
    tests = [_header(header) for header in match.headers] + [_baggage(entry) for entry in match.baggage]
    method = match.method.encode()
    path_holds = path_test(match.path) if match.path is not None else None

    def holds(asked: bytes, path: bytes, fields: Fields) -> bool:
        if method and asked != method:
            return False
        if path_holds is not None and not path_holds(path):
            return False
        return all(test(fields) for test in tests)

    return holds


def _header(header: HeaderMatch) -> Callable[[Fields], bool]:
    name, value_holds = header.name.encode(), value_test(header)
    return lambda fields: any(value_holds(value) for value in fields.get(name, ()))


def _baggage(entry: BaggageMatch) -> Callable[[Fields], bool]:
    wanted, value_holds = entry.name.encode(), value_test(entry)

    def holds(fields: Fields) -> bool:
        entries = (each for line in fields.get(BAGGAGE, ()) for each in baggage_entries(line))
        return any(name == wanted and value_holds(value) for name, value in entries)

    return holds


def value_test(condition: HeaderMatch | BaggageMatch) -> Callable[[bytes], bool]:
    """Whether a value is what the condition asks for."""
    if condition.regex:
        return compile_pattern(condition.value)
    return as_bytes(condition.value).__eq__


def path_test(path: PathMatch) -> Callable[[bytes], bool]:
    """Whether a path (see `path_of`) is what the condition asks for."""
    if path.kind is MatchKind.REGEX:
        return compile_pattern(path.value)
    wanted = as_bytes(path.value)
    if path.kind is MatchKind.EXACT:
        return wanted.__eq__
    prefix = wanted.rstrip(b"/")
    if not prefix:
        return lambda value: value.startswith(b"/")
    return lambda value: value == prefix or value.startswith(prefix + b"/")
