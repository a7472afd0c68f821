"""The node's end of the gRPC transport: nobody gets further than HELLO without the session's token."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from tproxy.accepting import Accepting
from tproxy.errors import ClusterError, DeniedError
from tproxy.rpc import status
from tproxy.rpc.certificate import ServerCertificate
from tproxy.rpc.messages import MAX_MESSAGE_BYTES
from tproxy.rpc.refusals import RefusalLog
from tproxy.rpc.stream import BatchTooLongError, ServerStream
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Endpoint, StreamLostError
from tproxy.tunnel.hello import (
    MAX_HELLO_BYTES,
    HandshakeError,
    Hello,
    VersionMismatchError,
    Welcome,
    decode_hello,
    encode_welcome,
    negotiate,
)
from tproxy.tunnel.memory import keep_buffers

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
MAX_UNAUTHENTICATED = 64
MAX_STREAMS = 1024
MAX_CONNECTIONS = 4096
MAX_EXPOSED = 1024
"""Connections where strangers can connect: they must not be able to use up descriptors. Those beyond are closed at
once, and those that say nothing after a while."""

BACKLOG = 128
STOP_SECONDS = 0.5
"""What laptops get to read why the stream ended; a laptop that reads nothing does not delay the stop further."""

STOPPING = "the node daemon is stopping"

IdentityT = TypeVar("IdentityT")


class TunnelServer(Generic[IdentityT]):
    """Listens for laptops.

    `authenticate` gets each HELLO and returns who it is or raises `DeniedError`, whose message the laptop is told.
    `on_endpoint` gets the identity and the live endpoint, and sets its `on_open` before returning.
    """

    def __init__(
        self,
        node: str,
        authenticate: Callable[[Hello], Awaitable[IdentityT]],
        on_endpoint: Callable[[IdentityT, Endpoint], None],
        hello_seconds: float = HELLO_SECONDS,
    ) -> None:
        self.refused = 0
        """Streams refused since the start."""
        self._node = node
        self._authenticate = authenticate
        self._on_endpoint = on_endpoint
        self._hello_seconds = hello_seconds
        self._accepting: Accepting | None = None
        self._streams: set[ServerStream] = set()
        self._most_connections = MAX_CONNECTIONS
        self._tasks = Tasks("tunnels")
        self._stopping = False
        self._unauthenticated = 0
        self._endpoints: set[Endpoint] = set()
        self._refusals = RefusalLog(log)

    async def start(self, host: str, port: int, certificate: ServerCertificate | None = None) -> int:
        """Listen; returns the port. Without `certificate` in the clear, which is for loopback addresses.

        Raises `ClusterError` when the address is taken.
        """
        keep_buffers()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = host == "::" and socket.has_dualstack_ipv6()
        try:
            listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            raise ClusterError(
                f"cannot listen on {f'[{host}]' if ':' in host else host}:{port}",
                "see whether another node daemon runs here",
            ) from error
        if certificate is not None:
            self._most_connections = MAX_EXPOSED
        tls = certificate.context() if certificate is not None else None
        self._accepting = Accepting(listener, lambda: ServerStream(self._arrived), "tunnels", tls, self._has_room)
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """End every tunnel and stop listening, at once."""
        self._stopping = True
        if self._accepting is not None:
            await self._accepting.close()
        for endpoint in list(self._endpoints):
            endpoint.close(STOPPING)
        for stream in self._streams:
            stream.abort(STOPPING)
        if self._streams:
            await asyncio.wait([stream.closed for stream in self._streams], timeout=STOP_SECONDS)
        for stream in list(self._streams):
            stream.cut()
        await self._tasks.close()

    def _has_room(self) -> bool:
        handshakes = self._accepting.handshakes if self._accepting is not None else 0
        return len(self._streams) + handshakes < self._most_connections

    def _arrived(self, stream: ServerStream) -> None:
        """Somebody has connected."""
        stream.call.incoming.limit = MAX_HELLO_BYTES  # before anything that may have come along is looked at
        self._streams.add(stream)
        stream.closed.add_done_callback(lambda _: self._streams.discard(stream))
        silent = asyncio.get_running_loop().call_later(self._hello_seconds, stream.cut)

        def asked() -> None:
            silent.cancel()
            self._tasks.start(self._connect(stream), "connect")

        stream.call.on_request = asked

    async def _connect(self, stream: ServerStream) -> None:
        if self._unauthenticated >= MAX_UNAUTHENTICATED:
            self._refuse(stream, status.RESOURCE_EXHAUSTED, "too many streams wait for their HELLO")
            return
        if len(self._endpoints) >= MAX_STREAMS:
            self._refuse(stream, status.RESOURCE_EXHAUSTED, "too many tunnels")
            return
        self._unauthenticated += 1
        try:
            known = await self._handshake(stream)
        finally:
            self._unauthenticated -= 1
        if known is None:
            return
        if self._stopping:
            stream.abort(STOPPING)
            return
        hello, identity = known
        endpoint = Endpoint(stream, laptop=False, peer_software=hello.software)
        self._endpoints.add(endpoint)
        try:
            self._on_endpoint(identity, endpoint)
            await endpoint.wait_closed()
        finally:
            self._endpoints.discard(endpoint)
            endpoint.close(STOPPING)

    async def _handshake(self, stream: ServerStream) -> tuple[Hello, IdentityT] | None:
        """Who it is; None if that is nobody, who has been told so."""
        try:
            async with asyncio.timeout(self._hello_seconds):
                first = await stream.read()
                if first is None:
                    raise HandshakeError("the stream ended before HELLO")
                stream.call.incoming.limit = MAX_MESSAGE_BYTES
                hello = decode_hello(first)
                version = negotiate(hello)
                identity = await self._authenticate(hello)
                await stream.write(encode_welcome(Welcome(version, self._node)))
                return hello, identity
        except BatchTooLongError:
            self._refuse(stream, status.UNAUTHENTICATED, "the first batch is too long")
        except StreamLostError:
            return None  # nobody is there any more
        except TimeoutError:
            self._refuse(stream, status.UNAUTHENTICATED, "no HELLO in time")
        except VersionMismatchError as error:
            self._refuse(stream, status.FAILED_PRECONDITION, str(error))
        except HandshakeError as error:
            self._refuse(stream, status.UNAUTHENTICATED, str(error))
        except DeniedError as error:
            self._refuse(stream, status.UNAUTHENTICATED, error.message)
        except Exception:
            log.exception("cannot authenticate")
            stream.end(status.INTERNAL, "the node daemon failed")
        return None

    def _refuse(self, stream: ServerStream, status: int, reason: str) -> None:
        self.refused += 1
        self._refusals.note(stream.peer, reason)
        stream.end(status, reason)
