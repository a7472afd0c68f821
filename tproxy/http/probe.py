"""Tells health checks from other connections by a client's first bytes.

HTTP    a request whose User-Agent begins with one of the checkers' names, from wherever
HTTPS   from a node only: a ClientHello without the name of a server, as a kubelet sends it to a bare address
gRPC    from a node or the pod itself only: the same User-Agents, in the first request of an HTTP/2 connection
"""

import enum
import re
from collections.abc import Iterable, Sequence

from tproxy.http import client_hello

KUBELET = "kube-probe/"
MAX_HEAD = 16 * 1024
"""Bytes of a request's head, or of a ClientHello, that are looked at."""

_HTTP2 = b"PRI"
_REQUEST_LINE = re.compile(rb"[A-Z]{1,32} [^ ]+ HTTP/1\.[01]")
_USER_AGENT = b"user-agent"


class Verdict(enum.Enum):
    """What first bytes are. `UNFINISHED`: a ClientHello whose rest is still to come."""

    PROBE = "probe"
    OTHER = "other"
    UNFINISHED = "unfinished"


def agents(prefixes: Sequence[str]) -> tuple[bytes, ...]:
    """User-Agent prefixes as `classify` takes them."""
    return tuple(prefix.encode("latin-1", "replace") for prefix in prefixes)


def classify(first: bytes, prefixes: tuple[bytes, ...], from_node: bool) -> Verdict:
    """What the client's `first` bytes are. Takes time in proportion to their number, and never raises.

    A request's head has to be complete: kubelets send it in one piece, and nobody shall wait. A ClientHello may be
    larger than one segment; its server has nothing to say before the end of it, so waiting holds nothing up.
    """
    if first[:1] == client_hello.HANDSHAKE:
        if not from_node:
            return Verdict.OTHER
        named = client_hello.names_server(first[:MAX_HEAD])
        if named is None:
            return Verdict.UNFINISHED if len(first) < MAX_HEAD else Verdict.OTHER
        return Verdict.OTHER if named else Verdict.PROBE
    head, end, _ = first[:MAX_HEAD].partition(b"\r\n\r\n")
    if not end or not prefixes:
        return Verdict.OTHER
    request, *headers = head.split(b"\r\n")
    if _REQUEST_LINE.fullmatch(request) is None:
        return Verdict.OTHER
    for header in headers:
        name, _, value = header.partition(b":")
        if name.lower() == _USER_AGENT:
            return Verdict.PROBE if value.strip().startswith(prefixes) else Verdict.OTHER
    return Verdict.OTHER


def speaks_http2(first: bytes) -> bool:
    """Whether the client's `first` bytes are the beginning of an HTTP/2 connection, as far as they go."""
    return first[: len(_HTTP2)] == _HTTP2


def asks_as_checker(fields: Iterable[tuple[bytes, bytes]], prefixes: tuple[bytes, ...]) -> bool:
    """Whether a request of HTTP/2 is a checker's."""
    return any(name == _USER_AGENT and value.startswith(prefixes) for name, value in fields)
