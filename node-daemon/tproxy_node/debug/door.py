"""Questions that come by a unix socket, on the node itself and without the API server, to whoever is root there.

{"question": NAME, "arguments": {...}}   one line, then the answer (`tproxy.debug.answer`) and the end
"""

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path

from tproxy.debug import answer
from tproxy.errors import InvalidError, TproxyError
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Buffer
from tproxy_node.debug.asking import ARGUMENTS_SECONDS, parse
from tproxy_node.debug.questions import ON_THE_NODE, Framed, Question, Questions

log = logging.getLogger(__name__)

BACKLOG = 16
SOCKET = "node.sock"
DEFAULT = Path("/run/tproxy") / SOCKET


class Door:
    """Serves the socket at `path`. That there is none, for want of a directory or a right, stops nothing else."""

    def __init__(self, questions: Questions, path: Path) -> None:
        self._questions = questions
        self._path = path
        self._server: asyncio.Server | None = None
        self._made = 0
        self._tasks = Tasks("door")

    async def start(self) -> None:
        """Listen. A socket that somebody else left, or still has, is replaced."""
        try:
            listener = _listen(self._path)
            self._made = self._path.stat().st_ino
        except OSError as error:
            log.warning("no questions on the node itself, %s: %s", self._path, error.strerror or error)
            return
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=answer.MAX_ARGUMENTS)

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._made:
                    self._path.unlink()
        await self._tasks.close()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.start(self._answer(reader, writer), "answer")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = _Written(writer)
        try:
            async with asyncio.timeout(ARGUMENTS_SECONDS):
                asked = parse(await _line(reader))
            name, arguments = asked.get("question"), asked.get("arguments", {})
            if not isinstance(name, str) or not isinstance(arguments, dict):
                raise InvalidError("that is no question")
            gone = self._tasks.start(_gone(reader, asyncio.current_task()), "gone")
            try:
                await self._questions.answer(Question(name, ON_THE_NODE, arguments), reply)
            finally:
                gone.cancel()
            await reply.begun("lines")
        except TproxyError as error:
            if reply.form != "bytes":
                await reply.write(answer.failure(error))
        except (OSError, TimeoutError):
            log.debug("nobody waits for the answer any more")
        except Exception:
            log.exception("cannot answer", extra={"rate_key": "door"})
        finally:
            writer.close()


async def _gone(reader: asyncio.StreamReader, answering: asyncio.Task[None] | None) -> None:
    """End `answering` when there is nobody to read it."""
    with contextlib.suppress(OSError):
        await reader.read(1)
    if answering is not None:
        answering.cancel()


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:
        raise InvalidError("the question is too long") from error


def _listen(path: Path) -> socket.socket:
    """A socket that only its owner may connect to. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # Made under another name: until its mode is right nobody finds it, and what is there serves until it is replaced.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        listener.bind(str(new))
        new.chmod(0o600)
        listener.listen(BACKLOG)
        new.rename(path)
    except BaseException:
        listener.close()
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    return listener


class _Written(Framed):
    """A `Reply` on a connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._writer = writer

    async def write(self, data: Buffer) -> None:
        """No faster than it is read."""
        self._writer.write(data)
        await self._writer.drain()
