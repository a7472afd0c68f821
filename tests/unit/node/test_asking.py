"""Questions that come through tunnels and by the unix socket: who may ask what, and what becomes of bad ones."""

import asyncio
import contextlib
import functools
import json
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from tproxy_node.debug import questions as module
from tproxy_node.debug.asking import Asking
from tproxy_node.debug.door import Door
from tproxy_node.debug.questions import Question, Questions, Reply
from tproxy_node.opening import Identity, Openings

from tests.unit.node.streams import tunnel
from tproxy.debug.answer import MAX_ARGUMENTS, AnswerReader
from tproxy.errors import TproxyError
from tproxy.model.flow import NOWHERE, RESOLVERS, FlowKind, OpenRequest, ResetReason
from tproxy.model.session import SYSTEM_NAMESPACE
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint

ANN = Identity("uid-ann", "shop/ann", "ann", "shop")
DEBBIE = Identity("uid-debbie", f"{SYSTEM_NAMESPACE}/debbie", "debbie", SYSTEM_NAMESPACE)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(test(**arguments))

    return run


async def echo(question: Question, reply: Reply) -> None:
    await reply.line({"who": question.who.user, "everything": question.who.everything, **question.arguments})


async def blob(question: Question, reply: Reply) -> None:
    await reply.send(b"\x00\x01\n{")
    await reply.send(b"}\n")


async def fails(question: Question, reply: Reply) -> None:
    await reply.line({"one": 1})
    raise TproxyError("it broke", "mend it", 5)


async def nothing(question: Question, reply: Reply) -> None:
    """Has nothing to say."""


def asked() -> Questions:
    known = Questions()
    for answer in (echo, blob, fails, nothing):
        known.add(answer.__name__, answer)
    known.add("secret", echo, debugger=True)
    return known


class Heard:
    """The asker's end."""

    def __init__(self) -> None:
        self.data = b""
        self.over: asyncio.Future[ResetReason | None] = asyncio.get_running_loop().create_future()
        self.conn: Conn | None = None

    def conn_opened(self) -> None: ...

    def conn_data(self, data: Buffer) -> None:
        self.data += data
        if self.conn is not None:
            self.conn.consumed(len(data))

    def conn_eof(self) -> None:
        self.over.set_result(None)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        if not self.over.done():
            self.over.set_result(reason)

    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...


@contextlib.asynccontextmanager
async def joined(openings: Openings, who: Identity) -> AsyncIterator[Endpoint]:
    """The laptop's end of a tunnel that is `who`'s."""
    node, laptop = tunnel()
    node.on_open = functools.partial(openings.open, who)
    yield laptop
    node.close("over")
    laptop.close("over")


def read(data: bytes) -> list[Mapping[str, Any] | bytes]:
    reader = AnswerReader()
    found = list(reader.feed(data))
    reader.end()
    return found


async def ask(
    who: Identity, name: str, arguments: bytes = b"{}", known: Questions | None = None
) -> bytes | ResetReason:
    openings = Openings()
    asking = Asking(asked())
    asking.join(openings)
    async with joined(openings, who) as laptop:
        heard = Heard()
        heard.conn = conn = laptop.open(OpenRequest(FlowKind.ASK, NOWHERE, protocol=name), heard)
        conn.write(arguments)
        conn.write_eof()
        async with asyncio.timeout(5):
            reason = await heard.over
        await asking.close()
        return heard.data if reason is None else reason


@in_loop
async def test_an_answer_through_the_tunnel() -> None:
    data = await ask(ANN, "echo", b'{"pod":"shop/web"}')
    assert isinstance(data, bytes)
    assert read(data) == [{"who": "ann", "everything": False, "pod": "shop/web"}]


@in_loop
async def test_bytes_are_bytes() -> None:
    data = await ask(ANN, "blob")
    assert isinstance(data, bytes)
    assert b"".join(one for one in read(data) if isinstance(one, bytes)) == b"\x00\x01\n{}\n"


@in_loop
async def test_an_empty_answer_is_one() -> None:
    data = await ask(ANN, "nothing")
    assert isinstance(data, bytes)
    assert read(data) == []


@in_loop
async def test_a_failure_comes_with_its_hint_and_exit_code() -> None:
    data = await ask(ANN, "fails")
    assert isinstance(data, bytes)
    with pytest.raises(TproxyError, match="it broke") as caught:
        read(data)
    assert (caught.value.hint, caught.value.exit_code) == ("mend it", 5)


@pytest.mark.parametrize("arguments", [b"", b"{}"])
@in_loop
async def test_arguments_may_be_missing(arguments: bytes) -> None:
    assert isinstance(await ask(ANN, "echo", arguments), bytes)


@pytest.mark.parametrize("arguments", [b"[]", b"{", b"\xff", b"[" * 50_000, b'"' + b"a" * MAX_ARGUMENTS + b'"'])
@in_loop
async def test_nonsense_is_refused_in_a_sentence(arguments: bytes) -> None:
    data = await ask(ANN, "echo", arguments)
    assert isinstance(data, bytes)
    with pytest.raises(TproxyError, match="question"):
        read(data)


@in_loop
async def test_questions_for_debuggers() -> None:
    data = await ask(ANN, "secret")
    assert isinstance(data, bytes)
    with pytest.raises(TproxyError, match="for node debuggers") as caught:
        read(data)
    assert "tproxy-debugger" in caught.value.hint
    data = await ask(DEBBIE, "secret")
    assert isinstance(data, bytes)
    assert read(data) == [{"who": "debbie", "everything": True}]


@in_loop
async def test_an_unknown_question() -> None:
    assert await ask(ANN, "weather") is ResetReason.DENIED


@pytest.mark.parametrize(
    "request_",
    [
        OpenRequest(FlowKind.DIAL, RESOLVERS, protocol="dns"),
        OpenRequest(FlowKind.DIAL, RESOLVERS, protocol="resolv.conf"),
        OpenRequest(FlowKind.READ, NOWHERE, pod="shop/web", protocol="environ", container="app"),
    ],
)
@in_loop
async def test_a_debuggers_session_does_nothing_but_ask(request_: OpenRequest) -> None:
    openings = Openings()
    served: list[str] = []
    for kind in FlowKind:
        openings.add(kind, ("dns", "resolv.conf", "environ"), lambda who, conn: served.append(who.name))
    async with joined(openings, DEBBIE) as laptop:
        heard = Heard()
        heard.conn = laptop.open(request_, heard)
        async with asyncio.timeout(5):
            assert await heard.over is ResetReason.DENIED
    assert served == []


@in_loop
async def test_cancelled_questions_end_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ASKED_BY_ONE", 1)
    known, ended, begun = Questions(), asyncio.Event(), asyncio.Event()

    async def follow(question: Question, reply: Reply) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    known.add("follow", follow)
    openings = Openings()
    asking = Asking(known)
    asking.join(openings)
    async with joined(openings, ANN) as laptop, asyncio.timeout(5):
        heard = Heard()
        heard.conn = first = laptop.open(OpenRequest(FlowKind.ASK, NOWHERE, protocol="follow"), heard)
        first.write_eof()
        await begun.wait()
        more = Heard()
        more.conn = second = laptop.open(OpenRequest(FlowKind.ASK, NOWHERE, protocol="follow"), more)
        second.write_eof()
        await more.over
        with pytest.raises(TproxyError, match="too many questions"):
            read(more.data)
        first.reset()
        await ended.wait()
        await asking.close()


async def by_socket(path: Path, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line + b"\n")
    async with asyncio.timeout(5):
        data = await reader.read()
    writer.close()
    return data


@in_loop
async def test_the_socket_on_the_node(tmp_path: Path) -> None:
    path = tmp_path / "run" / "node.sock"
    door = Door(asked(), path)
    await door.start()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
    line = json.dumps({"question": "secret", "arguments": {"a": 1}}).encode()
    assert read(await by_socket(path, line)) == [{"who": "root", "everything": True, "a": 1}]
    for bad in (b"", b"{}", b"nonsense", b'{"question":"weather"}', b"x" * (MAX_ARGUMENTS + 10)):
        with pytest.raises(TproxyError):
            read(await by_socket(path, bad))
    await door.close()
    assert not path.exists()


@in_loop
async def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    first, second = Door(asked(), tmp_path / "node.sock"), Door(asked(), tmp_path / "node.sock")
    await first.start()
    await second.start()
    await first.close()
    assert read(await by_socket(tmp_path / "node.sock", b'{"question":"nothing"}')) == []
    await second.close()


@in_loop
async def test_without_a_place_for_the_socket_all_else_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    door = Door(asked(), tmp_path / "file" / "node.sock")
    await door.start()
    await door.close()
