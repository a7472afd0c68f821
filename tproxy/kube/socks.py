"""Connections to the API server through a SOCKS5 proxy, which resolves its name."""

import asyncio
import errno
import os
import socket
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

from tproxy.kube.connector import keep_alive

PORT = 1080


class SocksConnector(aiohttp.TCPConnector):
    """aiohttp's connector, whose connections begin at the proxy with the URL `proxy`; everything after that, TLS with
    the server's own name before all, is aiohttp's.
    """

    def __init__(self, proxy: str, **options: Any) -> None:
        super().__init__(resolver=_AtTheProxy(), **options)
        parts = urlsplit(proxy)
        self._host, self._port = parts.hostname or "", parts.port or PORT
        self._user = unquote(parts.username) if parts.username is not None else None
        self._password = unquote(parts.password or "") if parts.username is not None else None

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: Any, **kwargs: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        # Not documented by aiohttp, which has no other place for this; tests would tell of a change.
        host, port = addr_infos[0][4][:2]
        sock = await self._begin(host, port, kwargs["timeout"].sock_connect)
        return await super()._wrap_existing_connection(*args, sock=sock, **kwargs)

    async def _begin(self, host: str, port: int, seconds: float | None) -> socket.socket:
        proxy = Proxy(ProxyType.SOCKS5, self._host, self._port, self._user, self._password, rdns=True)
        try:
            sock = await proxy.connect(host, port, timeout=seconds)
        except ProxyTimeoutError as error:
            raise self._failed("did not answer in time") from error
        except ProxyConnectionError as error:
            raise self._failed(f"cannot be reached: {self._words(error)}") from error
        except (ProxyError, OSError) as error:
            raise self._failed(f"refused: {str(error).lower() or 'it closed the connection'}") from error
        keep_alive(sock)
        return sock

    def _words(self, error: OSError) -> str:
        if isinstance(error.__cause__, socket.gaierror):
            return f"the name {self._host} cannot be resolved"
        return os.strerror(error.errno or errno.EIO).lower()

    def _failed(self, why: str) -> aiohttp.ClientConnectionError:
        return aiohttp.ClientConnectionError(f"its proxy {self._host}:{self._port} {why}")


class _AtTheProxy(AbstractResolver):
    """Leaves names as they are."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=host, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing is held."""
