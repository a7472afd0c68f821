"""Questions that come through tunnels: ASK, its arguments as one JSON object and FIN, then the answer and FIN."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from tproxy.debug import answer
from tproxy.errors import InvalidError, TproxyError
from tproxy.model.flow import FlowKind, ResetReason
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Buffer, Conn
from tproxy_node.debug.questions import Asker, Framed, Question, Questions
from tproxy_node.opening import Identity, Openings
from tproxy_node.paced import Paced

log = logging.getLogger(__name__)

ARGUMENTS_SECONDS = 10.0
"""How long a laptop may take to say what it wants."""


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


class _Asked(Paced, Framed):
    """The sink of such a connection, and its `Reply`."""

    def __init__(self, conn: Conn) -> None:
        Framed.__init__(self)
        Paced.__init__(self, conn)
        self.arguments: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = bytearray()

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
