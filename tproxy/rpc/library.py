"""The laptop's end of the gRPC transport by gRPC's own library (grpcio), in place of ours.

The bytes are the same. Ours is the usual one: the library hands each message to threads of its own and back, which
took 190 µs of a request there and back; this one is for whoever wants nothing but the library to face the network, and
shows what is ours to answer for and what is not.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import NoReturn

import grpc
import grpc.aio

from tproxy.model.direct import SERVER_NAME
from tproxy.rpc.calls import MAX_DETAILS_CHARACTERS, METHOD
from tproxy.rpc.client import RefusedError
from tproxy.rpc.messages import MAX_MESSAGE_BYTES
from tproxy.tasks import Tasks

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.max_frame_size", 1024 * 1024),
    ("grpc.http2.lookahead_bytes", 1024 * 1024),
    ("grpc.max_metadata_size", 8 * 1024),
    # The address is a unix socket of ours, or is called direct: a proxy from the environment has no business here.
    ("grpc.enable_http_proxy", 0),
    # A channel per tunnel, a connection per channel: two tunnels to one address share nothing.
    ("grpc.use_local_subchannel_pool", 1),
    # A tunnel that ends is opened anew by whoever wants it, after a look at why.
    ("grpc.enable_retries", 0),
]


async def open_stream(target: str, certificate: bytes | None) -> "LibraryStream":
    """A stream to `target`; see `client.open_stream`. That nobody is there shows when it is used."""
    if certificate is None:
        return LibraryStream(grpc.aio.insecure_channel(target, options=_OPTIONS))
    # It is signed by itself and no authority: as the only root it is the only certificate that is accepted.
    trusted = grpc.ssl_channel_credentials(ssl.DER_cert_to_PEM_cert(certificate).encode("ascii"))
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME)]
    return LibraryStream(grpc.aio.secure_channel(target, trusted, options=options))


class LibraryStream:
    """A call as a `tproxy.tunnel.endpoint.Stream`. Owns its channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)()
        self._tasks = Tasks("grpc")
        self._closing: asyncio.Task[None] | None = None

    async def read(self) -> bytes | None:
        """The peer's next batch, or None when it sends no more. Raises `StreamLostError`."""
        try:
            batch = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            await self._lost(error)
        return batch if isinstance(batch, bytes) else None

    async def each(self, receive: Callable[[bytes], None]) -> None:
        """Give `receive` each batch of the peer's. Raises `StreamLostError`, and what `receive` raises."""
        while (batch := await self.read()) is not None:
            receive(batch)

    async def write(self, batch: bytes) -> None:
        """Send a batch. Raises `StreamLostError`."""
        try:
            await self._call.write(batch)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            await self._lost(error)

    def abort(self, reason: str) -> None:
        """End the stream now."""
        self._call.cancel()
        if self._closing is None:
            self._closing = self._tasks.start(self._channel.close(), "close channel")

    async def _lost(self, error: BaseException) -> NoReturn:
        """Say what the call ended with. gRPC reports a call that the *peer* cancelled as a cancellation of ours."""
        task = asyncio.current_task()
        cancelled_here = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling()
        if cancelled_here or not self._call.done():
            raise error
        code, details = await self._call.code(), await self._call.details() or ""
        # A write failed before the node's own words arrived, or there were none: gRPC's are no use to people.
        if code is grpc.StatusCode.INTERNAL or "Socket closed" in details:
            details = "the connection to the node broke"
        raise RefusedError(code.value[0], details[:MAX_DETAILS_CHARACTERS]) from error
