"""Takes secrets out of texts: those that are known to this laptop, and what looks like one. Pure.

Objects are not cleaned but copied, field by field (`objects`); this is for what has no fields, such as logs, and the
second line for everything else.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

REMOVED = "(removed)"

SHORTEST = 8
"""Characters that a known secret must have to be looked for: shorter ones would be found in ordinary words."""

_SECRET_KEYS = re.compile(r"token|passw|secret|key-data|certificate-data|credential|auth", re.IGNORECASE)

_SHAPES = (
    # PEM blocks (RFC 7468) that are not public.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REMOVED),
    # JSON Web Tokens (RFC 7519), service accounts' among them.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), REMOVED),
    # Credentials in a header's line (RFC 9110 section 11.4).
    (re.compile(r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(\"?\s*[:=]\s*)[^\r\n]+"), rf"\1\2{REMOVED}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/-]{8,}=*"), rf"\1 {REMOVED}"),
    # The user information of a URL (RFC 3986 section 3.2.1).
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@\"']+@"), rf"\1{REMOVED}@"),
    # name=value and "name": "value" of names that say what they are.
    (
        re.compile(
            r"(?i)([\w.-]*(?:passwd|password|passphrase|secret|token|api[_-]?key|private[_-]?key|credential)[\w.-]*"
            r"[\"']?\s*[:=]\s*)(?:\"[^\"\r\n]*\"|'[^'\r\n]*'|[^\s,;&}\"']+)"
        ),
        rf"\1{REMOVED}",
    ),
    # A SHA-256, or a 256-bit token, in hexadecimal.
    (re.compile(r"\b[0-9a-fA-F]{64}\b"), REMOVED),
)


class Cleaner:
    """Removes `known` secrets wherever they stand, then whatever has the shape of one."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known: list[str] = []
        self.learn(known)

    def learn(self, known: Iterable[str]) -> None:
        """Look for these, too, from here on."""
        # A secret that contains another goes first, or its rest would stay.
        wanted = {one for one in known if len(one) >= SHORTEST}.union(self._known)
        self._known = sorted(wanted, key=len, reverse=True)

    def text(self, text: str) -> str:
        """`text` without them."""
        for secret in self._known:
            text = text.replace(secret, REMOVED)
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return text

    def data(self, value: Any) -> Any:
        """The same for everything in a decoded JSON document; keys stay as they are."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {str(key): self.data(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(one) for one in value]
        return value


def of_kubeconfig_user(user: Mapping[str, Any]) -> list[str]:
    """What a kubeconfig's user proves himself by: every text below a key that says so, and what a plugin is given."""
    found: list[str] = []
    for key, value in user.items():
        if key == "exec" and isinstance(value, Mapping):
            found += _texts(value.get("args") or [])
            found += [str(one.get("value", "")) for one in value.get("env") or [] if isinstance(one, Mapping)]
        elif key == "tokenFile":
            continue
        elif _SECRET_KEYS.search(key):
            found += _texts(value)
    return found


def of_match(match: Mapping[str, Any] | None) -> list[str]:
    """The values that requests are matched by: people put session cookies and tokens there."""
    if not match:
        return []
    listed = [*(match.get("headers") or []), *(match.get("baggage") or [])]
    return [str(one.get("value", "")) for one in listed if isinstance(one, Mapping)]


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    return []
