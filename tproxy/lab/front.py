"""The API server as the lab's places reach it. It can be away while everything else goes on.

    laptop, nodes, pods ── TCP ──▶ ApiServer ──▶ store ◀── kubelets, DNS, controllers (they never miss it)
    commands on the host ── unix socket, with `/lab/api-server/...` ──▶ store

Stopped it is as killed: nobody is told, connections are cut. What it knew it knows again.
"""

from collections.abc import Callable, Sequence
from socket import socket

from aiohttp import web

from tproxy.lab.api.store import Store
from tproxy.lab.client import PATH

_SHUTDOWN_SECONDS = 0.2


class ApiServer:
    """`make` makes the application, `bind` the sockets it listens on; `say` is told whether it serves."""

    def __init__(
        self,
        store: Store,
        make: Callable[[], web.Application],
        bind: Callable[[], Sequence[socket]],
        say: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._make = make
        self._bind = bind
        self._say = say
        self._runner: web.AppRunner | None = None
        self.route = web.post(PATH, self._control)
        """For whoever runs the lab, and nobody in it."""

    async def start(self) -> None:
        """Serve. Does nothing if it does already."""
        if self._runner is not None:
            return
        self._runner = runner = web.AppRunner(
            self._make(), access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        for listener in self._bind():
            await web.SockSite(runner, listener).start()
        self._say(True)

    async def stop(self) -> None:
        """Cut every connection and listen no more."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        if runner.server is not None:
            for connection in runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
        self._say(False)
        await runner.cleanup()

    async def _control(self, http: web.Request) -> web.Response:
        match http.match_info["action"]:
            case "start":
                await self.start()
            case "stop":
                await self.stop()
            case "forget":
                self._store.forget()
            case other:
                raise web.HTTPNotFound(text=f"the API server cannot be told to {other[:64]}")
        return web.json_response({})
