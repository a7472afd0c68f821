"""The questions that a node daemon answers, by name, and the rules that hold for all of them.

A part adds what it can answer before the first stream is accepted. Questions come through tunnels (`asking`) or by the
unix socket (`door`); here they look the same.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tproxy.debug import answer
from tproxy.errors import DeniedError, InvalidError, TproxyError
from tproxy.tunnel.conn import Buffer

log = logging.getLogger(__name__)

MAX_ASKED = 32
"""Questions being answered at a time; those that follow something last."""

MAX_ASKED_BY_ONE = 8


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: a Session, or root on the node itself.

    `session` is its UID and `name` what people call it, `namespace` what it is confined to unless `everything`.
    """

    session: str
    name: str
    user: str
    namespace: str
    everything: bool


ON_THE_NODE = Asker("", "node", "root", "", everything=True)


@dataclass(frozen=True, slots=True)
class Question:
    """`arguments` are whatever JSON object was sent: bounded, not checked."""

    name: str
    who: Asker
    arguments: Mapping[str, Any]

    def text(self, name: str) -> str:
        """An argument that is text, empty if it is missing. Raises `InvalidError`."""
        value = self.arguments.get(name) or ""
        if not isinstance(value, str):
            raise self.nonsense(name)
        return value

    def flag(self, name: str) -> bool:
        """An argument that is true or false, the latter if it is missing. Raises `InvalidError`."""
        value = self.arguments.get(name, False)
        if not isinstance(value, bool):
            raise self.nonsense(name)
        return value

    def number(self, name: str, least: int, most: int, default: int) -> int:
        """An argument that is a whole number within bounds. Raises `InvalidError`."""
        value = self.arguments.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidError(f"{name} must be a number from {least} to {most}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An argument that is a list of texts, empty if it is missing. Raises `InvalidError`."""
        value = self.arguments.get(name) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.nonsense(name)
        return tuple(value)

    def nonsense(self, name: str) -> InvalidError:
        """An argument cannot be understood."""
        return InvalidError(
            f"the node daemon does not understand the question's {name}", "`tproxy version` compares versions"
        )


class Reply(Protocol):
    """Takes the answer, no faster than the asker does: JSON objects by `line`, or bytes by `send`, never both.

    Both raise `asyncio.CancelledError` out of the answering task when the asker has enough.
    """

    async def line(self, value: Mapping[str, Any]) -> None:
        """One object."""

    async def send(self, data: Buffer) -> None:
        """Some bytes."""


class Framed(ABC):
    """A `Reply` as it is written (`tproxy.debug.answer`), by whatever way; `form` is None until something was said."""

    def __init__(self) -> None:
        self.form: answer.Form | None = None

    @abstractmethod
    async def write(self, data: Buffer) -> None:
        """All of it, no faster than the asker takes it."""

    async def begun(self, form: answer.Form) -> None:
        """Say what follows, unless that was said."""
        if self.form is None:
            self.form = form
            await self.write(answer.begin(form))

    async def line(self, value: Mapping[str, Any]) -> None:
        """See `Reply`."""
        await self.begun("lines")
        await self.write(answer.line(value))

    async def send(self, data: Buffer) -> None:
        """See `Reply`."""
        await self.begun("bytes")
        await self.write(data)


Answer = Callable[[Question, Reply], Awaitable[None]]
"""Answers a question. Raises `TproxyError` for the asker, at whatever point of the answer."""


@dataclass(frozen=True, slots=True)
class _Known:
    answer: Answer
    debugger: bool


class Questions:
    """All that are answered here."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._asked: Counter[str] = Counter()

    def add(self, name: str, answer: Answer, debugger: bool = False) -> None:
        """Have `answer` answer questions of this name; with `debugger`, of askers only who may know everything."""
        self._known[name] = _Known(answer, debugger)

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked."""
        return tuple(self._known)

    async def answer(self, question: Question, reply: Reply) -> None:
        """Answer. Raises `TproxyError`."""
        known = self._known.get(question.name)
        who = question.who
        if known is None:
            raise InvalidError(
                f"the node daemon does not know the question {question.name!r}", "`tproxy version` compares versions"
            )
        if known.debugger and not who.everything:
            raise DeniedError(
                f"{question.name} is for node debuggers",
                "ask an administrator for the chart's role tproxy-debugger (value `rbac.debuggers`)",
            )
        if self._asked.total() >= MAX_ASKED or self._asked[who.session] >= MAX_ASKED_BY_ONE:
            raise TproxyError("too many questions are being answered", "end one of them, or wait a moment")
        self._asked[who.session] += 1
        log.info("asked: %s", question.name, extra={"session": who.name, "user": who.user, **_shown(question)})
        try:
            await known.answer(question, reply)
        finally:
            self._asked[who.session] -= 1
            if not self._asked[who.session]:
                del self._asked[who.session]


def _shown(question: Question) -> dict[str, str]:
    """The arguments for the log: what was looked at, not the values of headers, which may be secret."""
    hidden = {"headers"}
    shown = ", ".join(f"{name}={value}" for name, value in question.arguments.items() if name not in hidden and value)
    return {"arguments": shown[:512]} if shown else {}
