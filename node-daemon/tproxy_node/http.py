"""What the kubelet and Prometheus ask on the pod's address: nothing secret, and nothing that changes anything."""

import socket
from collections.abc import Callable

from aiohttp import web

from tproxy.errors import ClusterError


class HttpServer:
    """`/healthz`: the event loop runs. `/readyz`: 503 with what `unready` says, unless that is empty. `/metrics`."""

    def __init__(self, unready: Callable[[], str], metrics: Callable[[], bytes], content_type: str) -> None:
        self._unready = unready
        self._metrics = metrics
        self._content_type = content_type
        application = web.Application(client_max_size=0)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._serve_metrics)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises `ClusterError` when the address is taken."""
        await self._runner.setup()
        try:
            await web.SockSite(self._runner, _listen(host, port)).start()
        except OSError as error:
            raise ClusterError(
                f"cannot listen on {host} port {port}: {error.strerror}",
                "is another node daemon running? choose another address with `--http`",
            ) from error

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._unready()
        return web.Response(text=f"{reason}\n" if reason else "ok\n", status=503 if reason else 200)

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": self._content_type})


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes both address families, as the kubelet may use either, or the one there is."""
    if host == "::" and socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
    if host == "::":
        host = "0.0.0.0"  # noqa: S104 - the pod's own network, on purpose
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
