"""A request of HTTP/1 under way, and what becomes of one that its laptop doesn't answer."""

import enum
from dataclasses import dataclass, field

from tproxy.http.framing import Body
from tproxy.http.head import RequestHead
from tproxy.http.port import Buffer, Choice, Upstream
from tproxy.model.figures import Outcome
from tproxy.model.flow import ResetReason

SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Methods that may be repeated: they are not meant to change anything (RFC 9110, 9.2.1)."""

MAX_KEPT = 64 * 1024
"""Bytes of a request that are kept to be repeated."""

ERROR_HEADER = "tproxy-error"


class Exchange:
    """A request and how far its answer has come; `body` is the answer's while it arrives."""

    __slots__ = ("answered", "began", "body", "choice", "outcome", "persistent", "request", "started", "status")

    def __init__(
        self, request: RequestHead, began: float, choice: Choice | None = None, outcome: Outcome = Outcome.PASSED
    ) -> None:
        self.request = request
        self.began = began
        self.choice = choice
        self.outcome = outcome
        self.started = False
        self.answered = False
        self.status = 0
        self.body: Body | None = None
        self.persistent = True


PLAIN = RequestHead(b"GET", b"/", [], None, True)
"""Stands for any request that is plain (`tproxy.http.plain`)."""


class Kept:
    """What was sent of a request, to repeat it. `pieces` is None once that is more than `MAX_KEPT`."""

    __slots__ = ("_size", "pieces")

    def __init__(self) -> None:
        self.pieces: list[Buffer] | None = []
        self._size = 0

    def add(self, data: Buffer) -> None:
        """These bytes go out."""
        if self.pieces is None:
            return
        self._size += len(data)
        if self._size > MAX_KEPT:
            self.pieces = None
        else:
            self.pieces.append(data)


@dataclass(slots=True)
class Matched:
    """An exchange that a laptop has, or is about to."""

    exchange: Exchange
    choice: Choice
    upstream: Upstream | None = None
    kept: Kept = field(default_factory=Kept)

    def send(self, data: Buffer) -> None:
        """Bytes of the request."""
        self.kept.add(data)
        if self.upstream is not None:
            self.upstream.write(data)


class Remedy(enum.Enum):
    """What to do with a request that the laptop did not answer."""

    AGAIN = "again"  # on a new connection to the laptop
    APP = "app"
    ERROR = "error"  # answer ourselves


_APP_DOWN = frozenset((ResetReason.REFUSED, ResetReason.TIMED_OUT, ResetReason.UNREACHABLE, ResetReason.NO_SUCH_HOST))
_UNDELIVERED = frozenset((ResetReason.LIMIT, ResetReason.DENIED))


def remedy(choice: Choice, method: bytes, reason: ResetReason, whole: bool, reused: bool) -> Remedy:
    """What to do with a request of which no answer's byte has come.

    `whole`: it can be repeated as it was; `reused`: its connection had been used before, so that the local app may have
    closed it for its age just when the request was on its way.
    """
    if not whole:
        return Remedy.ERROR
    safe = method in SAFE
    if reason is ResetReason.RESET:
        return Remedy.AGAIN if reused and safe else Remedy.ERROR
    if reason in _APP_DOWN:
        return Remedy.APP if choice.fallback_when_refused else Remedy.ERROR
    if choice.on_disconnect == "fallback" and (safe or reason in _UNDELIVERED):
        return Remedy.APP
    return Remedy.ERROR


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a laptop did not answer. `slug` is for machines, `text` for people."""

    slug: str
    text: str

    def answer(self, head_only: bool, last: bool) -> bytes:
        """A 502 in HTTP/1.1 that says so in its body, and by the slug in a header. `last`: the connection ends."""
        body = f"tproxy: {self.text}\n".encode()
        head = (
            "HTTP/1.1 502 Bad Gateway\r\n"
            "content-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(body)}\r\n"
            f"{ERROR_HEADER}: {self.slug}\r\n"
            f"{'connection: close' + chr(13) + chr(10) if last else ''}\r\n"
        )
        return head.encode() + (b"" if head_only else body)


def failure(choice: Choice, reason: ResetReason, detail: str) -> Failure:
    """Words for a request that nobody answers."""
    if reason in _APP_DOWN:
        slug, what = "local-app-down", f"cannot reach {detail or 'the local app'}"
    elif reason is ResetReason.RESET:
        slug, what = "local-app-broke-off", "the local app closed the connection without an answer"
    else:
        slug, what = "laptop-gone", "the laptop is not connected" + (f": {detail}" if detail else "")
    return Failure(slug, f"{what} (laptop {choice.host or 'unknown'}, intercept {choice.name or choice.intercept})")
