"""HTTP to the API server: one connection pool, fresh credentials, bounded answers, our errors."""

import asyncio
import base64
import hashlib
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tproxy.errors import ClusterError
from tproxy.kube.config import ClusterConfig
from tproxy.kube.connector import connector
from tproxy.kube.credentials import Access
from tproxy.kube.errors import Call, OverloadedError, error_for
from tproxy.kube.port import Object
from tproxy.kube.proxies import is_socks
from tproxy.version import VERSION

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 30.0
ANSWER_LIMIT = 64 << 20
ERROR_LIMIT = 64 << 10

_FORCED_SECONDS = 15.0
_OVERLOAD_TRIES = 4
_OVERLOAD_SECONDS = 5.0
_MERGE_PATCH = "application/merge-patch+json"
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Transport:
    """Requests to one API server. Made outside or inside a loop, used inside one; `close` it in the end."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self._access = config.access
        self._renewing = asyncio.Lock()
        self._forced = float("-inf")
        self._session: aiohttp.ClientSession | None = None

    async def json(
        self,
        method: str,
        path: str,
        call: Call,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Object:
        """Send one request and return the decoded answer. Waits and tries again when the server is overloaded."""
        tries = 0
        while True:
            try:
                async with self.stream(method, path, call, query, body) as response:
                    async with asyncio.timeout(REQUEST_SECONDS):
                        data = await read_bounded(response.content, ANSWER_LIMIT, call)
                return decode(data, call)
            except OverloadedError:
                tries += 1
                if tries == _OVERLOAD_TRIES:
                    raise
                await asyncio.sleep(_OVERLOAD_SECONDS * tries / _OVERLOAD_TRIES)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        call: Call,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and give the successful answer with its body unread; it may go on for ever."""
        response = await self._send(method, path, call, query, body, {})
        async with response:
            # No timeout may span the yield: it would cancel whatever the caller is doing then.
            try:
                yield response
            except (aiohttp.ClientError, OSError) as error:
                raise self._unreachable(explain(error)) from error

    async def _send(
        self,
        method: str,
        path: str,
        call: Call,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        extra: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        """The head of a successful answer; anything else is raised."""
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        access = await self._fresh(forced=False)
        response = await self._request(method, path, query, data, access, extra)
        if response.status == 401:
            # Tokens expire early, kubeconfigs are logged in anew: get them again, once.
            response.close()
            access = await self._fresh(forced=True)
            response = await self._request(method, path, query, data, access, extra)
        if 101 < response.status < 200 or response.status >= 300:
            async with response:
                text = await _error_body(response)
                raise error_for(response.status, text, call, self.config.server)
        return response

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        access: Access,
        extra: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        headers = CIMultiDict(access.headers)
        headers.update(extra)
        if data is not None:
            headers["Content-Type"] = _MERGE_PATCH if method == "PATCH" else "application/json"
        options: dict[str, Any] = {"server_hostname": self.config.server_name}
        if not is_socks(self.config.proxy):
            options["proxy"] = self.config.proxy
        if access.tls is not None:
            options["ssl"] = access.tls
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._http().request(
                    method, self.url(path, query), data=data, headers=headers, allow_redirects=False, **options
                )
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(explain(error)) from error

    async def upgrade(self, path: str, call: Call, query: Mapping[str, str], subprotocol: str) -> "Upgraded":
        """Open a WebSocket that speaks `subprotocol`."""
        key = base64.b64encode(os.urandom(16)).decode()
        extra = {
            "Accept": "*/*",  # kubelets and runtimes answer 406 to whoever wants JSON of them
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Protocol": subprotocol,
        }
        response = await self._send("GET", path, call, query, None, extra)
        accept = base64.b64encode(hashlib.sha1(key.encode() + _WEBSOCKET_GUID, usedforsecurity=False).digest()).decode()
        if (
            response.status != 101
            or response.headers.get("Sec-WebSocket-Accept") != accept
            or response.headers.get("Sec-WebSocket-Protocol") != subprotocol
        ):
            response.close()
            raise ClusterError(
                f"the API server {self.config.server} opened no {subprotocol} WebSocket for {call.kind}",
                hint="a proxy in front of it may not pass WebSockets on",
            )
        return Upgraded(response)

    def url(self, path: str, query: Mapping[str, str] | None = None) -> URL:
        """`path` must be percent-encoded already."""
        return URL(self.config.server + path + (f"?{urlencode(query)}" if query else ""), encoded=True)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _fresh(self, forced: bool) -> Access:
        """Credentials that are good now; `forced`: the server says that those we have are not."""
        stale = self._access
        if forced:
            now = time.monotonic()
            # A plugin must not run for every request of somebody who simply isn't let in.
            if now - self._forced < _FORCED_SECONDS:
                return stale
            self._forced = now
        if forced or (stale.renew_at is not None and time.time() >= stale.renew_at):
            async with self._renewing:
                # Somebody else may have renewed while we waited for the lock.
                if self._access is stale:
                    self._access = await asyncio.to_thread(self.config.renew)
        return self._access

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=connector(self.config.proxy),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"tproxy/{VERSION}", "Accept": "application/json"},
            )
        return self._session

    def _unreachable(self, why: str) -> ClusterError:
        context = f" --context {self.config.context}" if self.config.context else ""
        return ClusterError(
            f"cannot reach the API server {self.config.server}: {why}",
            hint=f"see what `kubectl{context} cluster-info` says",
        )


class Upgraded:
    """A connection that has been switched from HTTP to something else."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._handler: asyncio.Protocol | None = None

    @property
    def alive(self) -> bool:
        """Whether the other end has not closed it yet, as far as is known."""
        connection = self._response.connection
        return connection is not None and connection.transport is not None and not connection.transport.is_closing()

    def take_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the connection to `protocol`, with the bytes that came along with the answer's head. When it has lost
        the connection, `protocol` must call `close`.

        aiohttp's own WebSocket costs a future and a task switch per message: measured with 2 KiB messages a protocol
        of ours carries four times as much, and a small message takes half the CPU time.
        """
        connection = self._response.connection
        if connection is None or connection.protocol is None or connection.transport is None:
            raise ClusterError("the connection to the API server was lost while it was opened")
        transport, self._handler = connection.transport, connection.protocol
        early = _Early()
        connection.protocol.set_parser(early, None)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if early.data:
            protocol.data_received(bytes(early.data))
        return transport

    def close(self) -> None:
        """Close the connection if it still is open, and let the pool forget it."""
        if self._handler is not None:
            # It was taken away from aiohttp's handler, for whom the session waits when it is closed.
            self._handler.connection_lost(None)
            self._handler = None
        self._response.close()


class _Early:
    """An aiohttp payload parser that only collects: how aiohttp hands out what it has read beyond the head."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """The connection ended."""


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await response.content.read(ERROR_LIMIT)
    except (aiohttp.ClientError, OSError):
        return b""


async def read_bounded(content: aiohttp.StreamReader, limit: int, call: Call) -> bytes:
    """The whole body, at most `limit` bytes."""
    parts, size = [], 0
    async for part in content.iter_any():
        size += len(part)
        if size > limit:
            raise ClusterError(f"the answer to {call.verb} {call.kind} is larger than {limit >> 20} MiB")
        parts.append(part)
    return b"".join(parts)


def decode(body: bytes, call: Call) -> Object:
    """A JSON object. Raises `ClusterError` if the body is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ClusterError(
            f"the answer to {call.verb} {call.kind} is no JSON object",
            hint="does the kubeconfig's server point at a Kubernetes API?",
        )
    return value


def explain(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({_reason(error.certificate_error)})"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {error.host} cannot be resolved"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"its proxy answered {error.status} {error.message}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"its proxy {error.host}:{error.port} cannot be reached: {explain(error.os_error)}"
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({(error.reason or str(error)).lower().replace('_', ' ')[:128]})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    if isinstance(error, OSError) and error.errno:
        # asyncio replaces the system's words by "Connect call failed".
        return os.strerror(error.errno).lower()
    return str(error)[:256] or type(error).__name__


def _reason(error: BaseException) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)[:128]
