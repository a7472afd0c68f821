"""What people write on the command line for the requests they want, and what it means."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tproxy.errors import InvalidError
from tproxy.model.fields import quote
from tproxy.model.match import (
    MAX_BAGGAGE,
    MAX_HEADERS,
    METHOD,
    TOKEN,
    VALUE_LIMIT,
    BaggageMatch,
    HeaderMatch,
    Match,
    MatchKind,
    PathMatch,
)
from tproxy.model.pattern import compile_pattern

AUTO = "auto"
AUTO_HEADER = "x-tproxy-intercept"
"""The header that `--http-header auto` makes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The conditions of one command, checked; `fresh`: and a header that nobody else has."""

    match: Match | None
    fresh: bool = False

    def with_header(self, value: str = "") -> Match | None:
        """The match, with the fresh header if one was asked for; its value may be an earlier one."""
        if not self.fresh:
            return self.match
        header = HeaderMatch(AUTO_HEADER, value or secrets.token_hex(4))
        if self.match is None:
            return Match((header,))
        return replace(self.match, headers=(*self.match.headers, header))


def parse_conditions(
    headers: Sequence[str] = (),
    baggage: Sequence[str] = (),
    path: str = "",
    path_prefix: str = "",
    path_regex: str = "",
    method: str = "",
) -> Asked:
    """Read the `--http-*` flags; `InvalidError` on anything that cannot mean a request."""
    written = [text for text in headers if text != AUTO]
    fresh = len(written) < len(headers)
    if len(headers) > MAX_HEADERS or len(baggage) > MAX_BAGGAGE:
        raise InvalidError(f"more than {MAX_HEADERS} conditions on headers, or {MAX_BAGGAGE} on baggage", "use fewer")
    if sum(map(bool, (path, path_prefix, path_regex))) > 1:
        raise InvalidError(
            "a request has one path: give one of --http-path, --http-path-prefix and --http-path-regex",
            "`--http-path-regex` can say everything the others can",
        )
    found_headers = tuple(_header(text) for text in written)
    if fresh and any(header.name == AUTO_HEADER for header in found_headers):
        raise InvalidError(f"`--http-header auto` is the header {AUTO_HEADER}, which you give as well", "give one")
    found_baggage = tuple(_baggage(text) for text in baggage)
    found_path = _path(path, path_prefix, path_regex)
    if method and METHOD.fullmatch(method.upper()) is None:
        raise InvalidError(f"{quote(method)} is not an HTTP method", "write it as in `--http-method POST`")
    if not (found_headers or found_baggage or found_path or method):
        return Asked(None, fresh)
    return Asked(Match(found_headers, found_path, method.upper(), found_baggage), fresh)


def _header(text: str) -> HeaderMatch:
    flag = "--http-header"
    # Neither may be in a name, so the first one is the separator.
    equals, colon = text.find("="), text.find(":")
    if colon >= 0 and (equals < 0 or colon < equals):
        name, value, regex = text[:colon], text[colon + 1 :].strip(), False
    else:
        name, value, regex = _split(text)
    name = name.strip()
    if TOKEN.fullmatch(name) is None or (equals < 0 and colon < 0):
        raise InvalidError(
            f"{quote(text)} is not a condition on a header",
            f"write NAME=VALUE, 'NAME: VALUE' or NAME=~REGEX, as in `{flag} x-user=ada`; `{flag} auto` makes a header",
        )
    return HeaderMatch(name.lower(), _value(flag, name, value, regex), regex)


def _baggage(text: str) -> BaggageMatch:
    name, value, regex = _split(text)
    name = name.strip()
    if TOKEN.fullmatch(name) is None or "=" not in text:
        raise InvalidError(
            f"{quote(text)} is not a condition on an entry of the baggage header",
            "write NAME=VALUE or NAME=~REGEX, as in `--http-baggage user=ada`",
        )
    return BaggageMatch(name, _value("--http-baggage", name, value, regex), regex)


def _split(text: str) -> tuple[str, str, bool]:
    name, _, value = text.partition("=")
    regex = value.startswith("~")
    return name, value[1:] if regex else value.strip(), regex


def _value(flag: str, name: str, value: str, regex: bool) -> str:
    if not value:
        raise InvalidError(f"{flag} {name} has no value", f"for any value write `{flag} '{name}=~.+'`")
    _check_text(f"the value of {flag} {name}", value)
    if regex:
        _check_pattern(f"{flag} {name}", value)
    return value


def _path(path: str, prefix: str, regex: str) -> PathMatch | None:
    for flag, value in (("--http-path", path), ("--http-path-prefix", prefix)):
        if not value:
            continue
        _check_text(flag, value)
        if not value.startswith("/") or any(char in value for char in "?# "):
            raise InvalidError(
                f"{flag} {quote(value)} is not a path: it begins with / and has no query", "write it as in `/api/v1`"
            )
    if path:
        return PathMatch(path)
    if prefix:
        return PathMatch(prefix, MatchKind.PREFIX)
    if regex:
        _check_text("--http-path-regex", regex)
        _check_pattern("--http-path-regex", regex)
        return PathMatch(regex, MatchKind.REGEX)
    return None


def _check_text(what: str, value: str) -> None:
    if len(value) > VALUE_LIMIT:
        raise InvalidError(f"{what} is longer than {VALUE_LIMIT} characters", "shorten it")
    if not value.isprintable():
        raise InvalidError(f"{what} has characters that cannot be in a request", "leave them out")


def _check_pattern(what: str, value: str) -> None:
    try:
        compile_pattern(value)
    except ValueError as error:
        raise InvalidError(
            f"{what}: {quote(value)} is not a regular expression: {error}",
            "the syntax is RE2's (https://github.com/google/re2/wiki/Syntax); the whole value has to match",
        ) from None
