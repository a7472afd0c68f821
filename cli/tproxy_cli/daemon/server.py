"""The daemon's API: HTTP on a unix socket, JSON in, a stream of JSON lines out.

    {"progress": "text"}*  then  {"result": {...}}  or  {"error": {"message", "hint", "exitCode"}}
    what a node answers (`tproxy.debug.answer`), of `ask`

The daemon ends
    after `quit`, which leaves every intercept and deletes the Sessions;
    on SIGTERM and SIGINT (shutdown, logout): it closes the tunnels, so that the pods serve again at once, but the
        objects stay, and the next daemon resumes unless they have expired by then;
    after ten minutes without session and request.

Only this user may connect: by the socket's mode and directory, and, should those fail, by what the kernel says of
the peer. A client that goes away cancels what it asked for.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from aiohttp import web

from tproxy.debug import answer
from tproxy.errors import InvalidError, TproxyError
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Buffer
from tproxy.version import VERSION
from tproxy_cli import paths
from tproxy_cli.daemon import requests
from tproxy_cli.daemon.asking import AskRequest
from tproxy_cli.daemon.engine import Engine, daemon_status
from tproxy_cli.daemon.hostwide.hostwide import ConnectRequest
from tproxy_cli.daemon.peer import peer_uid
from tproxy_cli.daemon.runs.door import Door
from tproxy_cli.daemon.state import StateFile

log = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
"""A daemon without sessions ends this long after the last request."""

IDLE_LOOK_SECONDS = 10.0
UNDO_SECONDS = 5.0
"""How long requests that are under way at the end may take to undo what they began."""

Json = dict[str, Any]
Progress = Callable[[str], None]
Operation = Callable[[Json, Progress], Awaitable[Json]]


class Server:
    """Answers requests until it is told to quit, gets a signal, or has been idle for long."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._started = time.monotonic()
        self._last_request = time.monotonic()
        self._running = 0
        self._state = "running"
        self._stop = asyncio.Event()
        self._tasks = Tasks("server")

    def app(self) -> web.Application:
        """The HTTP application."""
        app = web.Application(client_max_size=requests.MAX_BYTES)
        for name, operation in self._operations().items():
            app.router.add_post(f"/v1/{name}", self._handler(partial(self._answer, operation=operation)))
        app.router.add_post("/v1/ask", self._handler(self._pass_on))
        return app

    async def serve(self, listener: socket.socket, door: socket.socket | None = None) -> None:
        """Serve on `listener`, and runs on `door`, until the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        runner = web.AppRunner(self.app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        log.info("daemon started", extra={"pid": os.getpid(), "version": VERSION})
        self._engine.start()
        runs = Door(door, self._engine.runs.serve) if door is not None else None
        try:
            await self._wait_for_end()
        finally:
            await self._cancel_requests()
            if runs is not None:
                await runs.close()
            await self._engine.suspend()
            await runner.cleanup()
            await self._engine.close()
            log.info("daemon ended")

    async def _wait_for_end(self) -> None:
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(IDLE_LOOK_SECONDS):
                    await self._stop.wait()
            except TimeoutError:
                if self._running or not self._engine.idle:
                    self._last_request = time.monotonic()
                if time.monotonic() - self._last_request > IDLE_SECONDS:
                    log.info("nothing to do for long")
                    return

    async def _cancel_requests(self) -> None:
        """What is half done is undone while there still are connections to do it with."""
        with suppress(TimeoutError):
            async with asyncio.timeout(UNDO_SECONDS):
                await self._tasks.close()

    def _signalled(self, number: int) -> None:
        log.info("signal %s", signal.Signals(number).name)
        self._state = "stopping"
        self._stop.set()

    def _operations(self) -> dict[str, Operation]:
        engine = self._engine

        async def intercept(body: Json, say: Progress) -> Json:
            if self._stop.is_set():
                raise TproxyError("the daemon is just stopping", "run the command again")
            return await engine.intercept(requests.InterceptRequest.of(body), say)

        async def environment(body: Json, say: Progress) -> Json:
            return await engine.environment(requests.EnvironmentRequest.of(body), say)

        async def leave(body: Json, say: Progress) -> Json:
            return await engine.leave(requests.LeaveRequest.of(body), say)

        async def list_(body: Json, say: Progress) -> Json:
            return await engine.list_intercepts(requests.ListRequest.of(body))

        async def connect(body: Json, say: Progress) -> Json:
            return await engine.host_wide.connect(ConnectRequest.of(body), say)

        async def connected(body: Json, say: Progress) -> Json:
            return await engine.host_wide.wait()

        async def disconnect(body: Json, say: Progress) -> Json:
            return await engine.host_wide.disconnect()

        async def nodes(body: Json, say: Progress) -> Json:
            return await engine.nodes(requests.Where.of(body))

        async def complete(body: Json, say: Progress) -> Json:
            return await engine.complete(requests.CompleteRequest.of(body))

        async def status(body: Json, say: Progress) -> Json:
            await engine.ask_nodes()
            process = daemon_status(self._started, paths.socket_path(), paths.log_path(), self._state)
            return {
                "daemon": process,
                "clusters": engine.status(),
                "connections": engine.host_wide.status(),
                "runs": engine.runs.status(),
            }

        async def quit_(body: Json, say: Progress) -> Json:
            self._state = "stopping"
            try:
                return {"left": await engine.quit()}
            finally:
                self._stop.set()

        async def version(body: Json, say: Progress) -> Json:
            return {"version": VERSION}

        return {
            "intercept": intercept,
            "environment": environment,
            "leave": leave,
            "list": list_,
            "connect": connect,
            "connected": connected,
            "disconnect": disconnect,
            "nodes": nodes,
            "complete": complete,
            "status": status,
            "quit": quit_,
            "version": version,
        }

    def _handler(
        self, respond: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self._check_peer(request)
            self._last_request = time.monotonic()
            self._running += 1
            try:
                return await respond(request)
            finally:
                self._running -= 1
                self._last_request = time.monotonic()

        return handle

    def _check_peer(self, request: web.Request) -> None:
        connection = request.transport.get_extra_info("socket") if request.transport is not None else None
        if connection is None or peer_uid(connection) != os.getuid():
            log.warning("refused a connection of another user")
            raise web.HTTPForbidden

    async def _answer(self, request: web.Request, operation: Operation) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        lines: asyncio.Queue[Json] = asyncio.Queue()
        body = await request.read()
        await response.prepare(request)

        async def work() -> None:
            lines.put_nowait(await _outcome(operation, body, lambda text: lines.put_nowait({"progress": text})))

        working = self._tasks.start(work(), request.path)
        try:
            while True:
                line = await lines.get()
                await response.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                if "progress" not in line:
                    break
            await response.write_eof()
        except ConnectionResetError:
            log.info("nobody waits for the answer any more", extra={"request": request.path})
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)  # what it began is undone before we go on
        return response

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """A node's answer, no faster than it is taken."""
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        body = await request.read()
        await response.prepare(request)

        async def work() -> None:
            first: Buffer = b""
            try:
                pieces = self._engine.ask(AskRequest.of(_object(body)))
                async with aclosing(pieces):  # type: ignore[type-var]
                    async for piece in pieces:
                        first = first or piece
                        await response.write(piece)
            except ConnectionResetError:
                log.info("nobody waits for the answer any more", extra={"request": request.path})
            except Exception as error:
                told = _told(error)
                if bytes(first).startswith(answer.begin("bytes")):
                    raise web.HTTPInternalServerError from error  # it is too late for words: the connection ends
                await response.write(answer.line({"error": told}))
            await response.write_eof()

        working = self._tasks.start(work(), request.path)
        try:
            await asyncio.shield(working)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        return response


async def _outcome(operation: Operation, body: bytes, say: Progress) -> Json:
    """The last line of an answer."""
    try:
        return {"result": await operation(_object(body), say)}
    except Exception as error:
        return {"error": _told(error)}


def _object(body: bytes) -> Json:
    try:
        value = json.loads(body or b"{}")
    except ValueError as error:
        raise InvalidError("the request is no JSON") from error
    if not isinstance(value, dict):
        raise InvalidError("the request is no JSON object")
    return value


def _told(error: Exception) -> Json:
    """An error as it is answered; called where it is handled."""
    if isinstance(error, TproxyError):
        log.info("request failed: %s", error.message)
        return {"message": error.message, "hint": error.hint, "exitCode": error.exit_code}
    log.exception("request failed unexpectedly")
    hint = f"see {paths.log_path()}"
    return {"message": f"internal error: {error or type(error).__name__}", "hint": hint, "exitCode": 1}


async def run(listener: socket.socket, door: socket.socket) -> None:
    """Be the daemon until the end."""
    engine = Engine(StateFile(paths.sessions_path()), paths.runtime_dir() / "forward")
    await Server(engine).serve(listener, door)
