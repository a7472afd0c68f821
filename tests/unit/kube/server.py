"""A small HTTP server to play the API server: every test says what it answers."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tproxy.kube.api import ApiCluster
from tproxy.kube.config import ClusterConfig
from tproxy.kube.credentials import Access

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Seen:
    """A request that came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass
class ApiServer:
    """`answers` by method and path: an object, a (status, object), or a handler. What is missing is 404."""

    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def objects(self, path: str, *objects: dict[str, Any], version: str = "1") -> None:
        """Serve a list at `path` and each of its objects by name."""
        self.answers["GET", path] = {"metadata": {"resourceVersion": version}, "items": list(objects)}
        for obj in objects:
            self.answers["GET", f"{path}/{obj['metadata']['name']}"] = obj

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(
            Seen(
                request.method,
                request.path,
                dict(request.query),
                request.headers.copy(),
                json.loads(body) if body else None,
            )
        )
        answer = self.answers.get((request.method, request.path))
        if answer is None:
            return web.json_response(status_object(404, "NotFound", "not here"), status=404)
        if callable(answer):
            response: web.StreamResponse = await answer(request)
            return response
        status, obj = answer if isinstance(answer, tuple) else (200, answer)
        return web.json_response(obj, status=status)


def status_object(code: int, reason: str, message: str, **details: str) -> dict[str, Any]:
    """A Kubernetes Status."""
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[ApiServer]:
    """An ApiServer on a free port."""
    server = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"{'https' if tls else 'http'}://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[ApiServer, ApiCluster]]:
    """An ApiServer and a client of it."""
    async with serving() as server:
        cluster = ApiCluster(config_of(server))
        try:
            yield server, cluster
        finally:
            await cluster.close()


def config_of(server: ApiServer, access: Access | None = None) -> ClusterConfig:
    """The way to `server`."""
    access = access or Access()
    return ClusterConfig(server.url, "default", "test", access, lambda: access)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for `condition`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (conditions of all kinds, most without an event)
            await asyncio.sleep(0.002)
