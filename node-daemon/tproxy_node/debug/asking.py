"""Questions that come through tunnels: ASK, its arguments as one JSON object and FIN, then the answer and FIN."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from tproxy.debug import answer
from tproxy.errors import InvalidError, TproxyError
from tproxy.model.flow import FlowKind, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Buffer, Conn
from tproxy_node.debug.questions import Asker, Framed, Question, Questions
from tproxy_node.opening import Identity, Openings

log = logging.getLogger(__name__)

ARGUMENTS_SECONDS = 10.0
"""How long a laptop may take to say what it wants."""

_CHUNK = 64 * 1024


class Asking:
    """Serves ASK."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._tasks = Tasks("asking")

    def join(self, openings: Openings) -> None:
        """Serve what laptops open of this kind; once all questions are known."""
        openings.add(FlowKind.ASK, self._questions.names, self.open)

    def open(self, identity: Identity, conn: Conn) -> None:
        """A laptop opened `conn` in order to ask."""
        asked = _Asked(conn)
        task = self._tasks.start(self._answer(identity, conn, asked), conn.request.protocol)
        asked.on_gone = task.cancel

    async def close(self) -> None:
        """Answer no more."""
        await self._tasks.close()

    async def _answer(self, identity: Identity, conn: Conn, asked: "_Asked") -> None:
        conn.accept()
        who = Asker(identity.uid, identity.name, identity.user, identity.namespace, identity.debugger)
        try:
            async with asyncio.timeout(ARGUMENTS_SECONDS):
                arguments = parse(await asked.arguments)
            await self._questions.answer(Question(conn.request.protocol, who, arguments), asked)
            await asked.begun("lines")
        except TimeoutError:
            conn.reset(ResetReason.TIMED_OUT, "the question never came")
            return
        except TproxyError as error:
            if asked.form == "bytes":
                conn.reset(ResetReason.INTERNAL, error.message)
                return
            await asked.write(answer.failure(error))
        except Exception:
            log.exception("cannot answer", extra={"rate_key": "asking"})
            conn.reset(ResetReason.INTERNAL, "the node daemon failed")
            return
        conn.write_eof()


def parse(data: bytes) -> Mapping[str, Any]:
    """A question's arguments. Raises `InvalidError`."""
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidError("the question's arguments are no JSON object", "`tproxy version` compares versions")
    return value


class _Asked(Framed):
    """The sink of such a connection, and its `Reply`."""

    def __init__(self, conn: Conn) -> None:
        super().__init__()
        self.on_gone: Callable[[], object] = lambda: None
        self.arguments: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._conn = conn
        self._data = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        conn.sink = self

    async def write(self, data: Buffer) -> None:
        """All of it, no faster than the laptop takes it."""
        view = memoryview(data)
        for at in range(0, len(data), _CHUNK):
            await self._writable.wait()
            self._conn.write(view[at : at + _CHUNK])

    def conn_opened(self) -> None:
        """Not for connections of the peer."""

    def conn_data(self, data: Buffer) -> None:
        """A part of the arguments."""
        self._conn.consumed(len(data))
        self._data += data
        if len(self._data) > answer.MAX_ARGUMENTS and not self.arguments.done():
            self.arguments.set_exception(InvalidError("the question is too long"))
        if self.arguments.done():
            self._data.clear()

    def conn_eof(self) -> None:
        """That was the question."""
        if not self.arguments.done():
            self.arguments.set_result(bytes(self._data))

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The laptop has enough, or is gone."""
        self.on_gone()

    def conn_pause(self) -> None:
        """Wait."""
        self._writable.clear()

    def conn_resume(self) -> None:
        """Go on."""
        self._writable.set()
