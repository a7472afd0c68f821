"""The REST server: authenticates, authorises, and maps Kubernetes' requests to the store.

request ─► user (token) ─► RequestInfo ─► may the user? ─► store | watch | log | port-forward | review
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from tproxy.errors import DeniedError, TproxyError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import DEPLOYMENTS, PODS
from tproxy.lab.api import authn, discovery, objects, portforward, request, reviews, watching
from tproxy.lab.api.authn import User
from tproxy.lab.api.errors import BadRequestError, status, status_of
from tproxy.lab.api.request import RequestInfo
from tproxy.lab.api.resources import Kind
from tproxy.lab.api.store import Store

ReadLogs = Callable[[str, str, str, bool, int | None], AsyncIterator[bytes]]
"""namespace, pod, container (may be empty), follow, tail in lines -> the log, for as long as it is followed."""

MAX_BODY_BYTES = 3 * 1024 * 1024

_OPEN_PATHS = {"/healthz", "/livez", "/readyz"}


def make_app(
    store: Store,
    tokens: Mapping[str, User],
    dial_pod: portforward.Dial,
    read_logs: ReadLogs,
    peers: Mapping[str, User] | None = None,
    routes: Sequence[web.RouteDef] = (),
) -> web.Application:
    """The server as an application to be run on any site; it ends its streams itself on shutdown.

    `tokens` are bearer tokens; `peers` are addresses whose requests need none, as kubectl sends none over plain HTTP;
    `routes` go before the server's own.
    """
    server = _Server(store, tokens, peers or {}, dial_pod, read_logs)
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_routes(routes)
    app.router.add_route("*", "/{path:.*}", server.answer)
    app.on_shutdown.append(server.end_streams)
    return app


class _Server:
    def __init__(
        self,
        store: Store,
        tokens: Mapping[str, User],
        peers: Mapping[str, User],
        dial_pod: portforward.Dial,
        read_logs: ReadLogs,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._peers = peers
        self._dial_pod = dial_pod
        self._read_logs = read_logs
        self._kinds = {(kind.resource.group, kind.resource.version, kind.resource.plural): kind for kind in store.kinds}
        self._documents = discovery.documents(store.kinds)
        self._streams: set[asyncio.Task[Any]] = set()

    async def end_streams(self, _: web.Application) -> None:
        """Cancel watches, followed logs and port-forwards."""
        for task in self._streams:
            task.cancel()

    async def answer(self, http: web.Request) -> web.StreamResponse:
        """Answer any request; what goes wrong becomes the Status body that a Kubernetes client expects."""
        info = request.parse(http.method, http.path, http.query)
        try:
            if http.path in _OPEN_PATHS:
                return web.Response(text="ok")
            header = http.headers.get("Authorization", "")
            user = authn.authenticate(header, http.remote, self._tokens, self._peers)
            return await self._answer(http, user, info)
        except ConnectionError:
            return web.Response(status=499)  # whoever asked has gone: nobody reads it, and it is no error
        except TproxyError as error:
            body = status_of(error, info.details if info else None)
        except RecursionError:
            body = status(400, "BadRequest", "the body is nested too deeply")
        except web.HTTPRequestEntityTooLarge:
            body = status(413, "RequestEntityTooLarge", f"the body is larger than {MAX_BODY_BYTES} bytes")
        return web.json_response(body, status=body["code"])

    async def _answer(self, http: web.Request, user: User, info: RequestInfo | None) -> web.StreamResponse:
        if "Impersonate-User" in http.headers:
            whom = http.headers["Impersonate-User"][:256]
            raise DeniedError(f'users "{whom}" is forbidden: User "{user.name}" cannot impersonate here')
        if (document := self._documents.get(http.path.rstrip("/"))) is not None:
            return web.json_response(document)
        if http.path == "/openapi/v2":
            return web.Response(
                body=discovery.OPENAPI_V2, content_type="application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
            )
        if info is None:
            raise NotFoundError("the server could not find the requested resource")
        if info.verb == "create" and (answer := reviews.ANSWERS.get(info.resource)) is not None:
            return web.json_response(answer(user, await objects.body(http, info.plural)), status=201)
        user.authorise(info)
        kind = self._kinds.get((info.group, info.version, info.plural))
        if kind is None:
            raise NotFoundError("the server could not find the requested resource")
        return await self._serve(http, user, info, kind)

    async def _serve(self, http: web.Request, user: User, info: RequestInfo, kind: Kind) -> web.StreamResponse:
        if kind.resource == PODS and info.subresource == "portforward":
            # Newer servers ask for "create" although a WebSocket opens with GET.
            user.authorise(replace(info, verb="create"))
            pod = self._store.get(PODS, info.name, info.namespace)
            return await self._stream(portforward.serve(http, pod, self._dial_pod))
        if kind.resource == PODS and info.subresource == "log":
            return await self._stream(self._log(http, info))
        scalable = kind.resource == DEPLOYMENTS and info.subresource == "scale"
        if info.subresource and not (info.subresource == "status" and kind.status) and not scalable:
            raise NotFoundError("the server could not find the requested resource")
        if info.verb == "watch":
            return await self._stream(watching.serve(http, self._store, kind, info.namespace))
        body, code = await objects.answer(http, self._store, info, kind)
        return web.json_response(body, status=code)

    async def _stream(self, serving: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a coroutine always runs in one)
        self._streams.add(task)
        try:
            return await serving
        finally:
            self._streams.discard(task)

    async def _log(self, http: web.Request, info: RequestInfo) -> web.StreamResponse:
        self._store.get(PODS, info.name, info.namespace)
        tail, follow = http.query.get("tailLines", ""), http.query.get("follow", "") in ("1", "true")
        if tail and not tail.isdecimal():
            raise BadRequestError("tailLines: a number is needed")
        container = http.query.get("container", "")
        lines = self._read_logs(info.namespace, info.name, container, follow, int(tail) if tail else None)
        first = await anext(lines, b"")  # says here, not after the headers, that there is no such container
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(http)
        await response.write(first)
        async for chunk in lines:
            await response.write(chunk)
        return response
