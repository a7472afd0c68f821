"""The same bytes as other implementations' of gRPC: daemons and laptops of other versions may use one.

Against the official one (grpcio), as client and as server.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.tunnel.conftest import Run
from tests.unit.tunnel.live import TOKEN, authenticate, until
from tproxy.accepting import Accepting
from tproxy.errors import ClusterError, DeniedError
from tproxy.rpc import client
from tproxy.rpc.calls import METHOD
from tproxy.rpc.messages import MAX_MESSAGE_BYTES
from tproxy.rpc.server import TunnelServer
from tproxy.rpc.stream import ServerStream
from tproxy.tasks import Tasks
from tproxy.tunnel.endpoint import Endpoint, StreamLostError
from tproxy.tunnel.hello import Hello, Welcome, decode_hello, encode_hello, encode_welcome

HELLO = Hello("shop", "alice", TOKEN)
BATCHES = [b"x", os.urandom(100), os.urandom(70_000), os.urandom(1_000_000), os.urandom(MAX_MESSAGE_BYTES), b"y"]
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Context = "grpc.aio.ServicerContext[bytes, bytes]"


async def repeats(_requests: object, context: Context) -> None:
    """Says every batch back; at an empty one it ends the call."""
    decode_hello(await context.read())
    await context.write(encode_welcome(Welcome(1, "node1")))
    while batch := await context.read():
        await context.write(batch)
    await context.abort(grpc.StatusCode.ABORTED, "the node daemon is stopping: 100 %, ä")


async def refuses(_requests: object, context: Context) -> None:
    """Lets nobody in."""
    await context.read()
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the session's token is wrong")


@asynccontextmanager
async def other_server(handler: object) -> AsyncIterator[str]:
    """A server of the other implementation; where it listens."""
    server = grpc.aio.server(options=OPTIONS)
    method = {"Connect": grpc.stream_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tproxy.v1.Tunnel", method),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def write_all(stream: Any, batches: list[bytes]) -> None:
    """One after the other."""
    for batch in batches:
        await stream.write(batch)


def test_a_laptop_at_another_server(run: Run) -> None:
    async def main() -> None:
        async with other_server(repeats) as target:
            stream = await client.open_stream(target, None)
            await stream.write(encode_hello(HELLO))
            await stream.read()
            for batch in BATCHES:
                await stream.write(batch)
                assert await stream.read() == batch
            await stream.write(b"")
            with pytest.raises(StreamLostError, match="the node daemon is stopping: 100 %, ä"):
                await stream.read()
            stream.abort("")
            await asyncio.wait_for(stream.closed, 5)

    run(main())


def test_many_batches_are_under_way_at_another_server(run: Run) -> None:
    """More than its windows take at once."""

    async def main() -> None:
        async with other_server(repeats) as target:
            stream = await client.open_stream(target, None)
            await stream.write(encode_hello(HELLO))
            await stream.read()
            batches = [os.urandom(300_000) for _ in range(60)]

            writing = Tasks("test").start(write_all(stream, batches), "write")
            assert [await stream.read() for _ in batches] == batches
            await writing
            stream.abort("")

    run(main())


def test_what_another_server_refuses(run: Run) -> None:
    async def main() -> None:
        async with other_server(refuses) as target:
            with pytest.raises(DeniedError, match="token is wrong"):
                await client.connect(target, HELLO, lambda _conn: None)

    run(main())


def test_a_server_without_the_method(run: Run) -> None:
    async def main() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        with pytest.raises(ClusterError, match="cannot reach the node daemon: Method not found"):
            await client.connect(f"127.0.0.1:{port}", HELLO, lambda _conn: None)
        await server.stop(None)

    run(main())


def test_another_client_at_our_streams(run: Run) -> None:
    """Its batches come whole and go back whole, and it hears how the call ended."""

    async def main() -> None:
        tasks = Tasks("test")

        async def repeat(stream: ServerStream) -> None:
            while batch := await stream.read():
                await stream.write(batch)
            stream.abort("the session has ended: 100 %, ä")

        streams: list[ServerStream] = []

        def arrived(stream: ServerStream) -> None:
            streams.append(stream)
            stream.call.on_request = lambda: tasks.start(repeat(stream), "repeat") and None

        listener = socket.create_server(("127.0.0.1", 0))
        accepting = Accepting(listener, lambda: ServerStream(arrived), "test")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}", OPTIONS) as channel:
            call = channel.stream_stream(METHOD)()
            for batch in BATCHES:
                await call.write(batch)
                assert await call.read() == batch
            many = [os.urandom(300_000) for _ in range(60)]
            writing = tasks.start(write_all(call, many), "write")
            assert [await call.read() for _ in many] == many
            await writing
            await call.write(b"")
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call.read()
        assert ended.value.code() is grpc.StatusCode.ABORTED
        assert ended.value.details() == "the session has ended: 100 %, ä"
        await asyncio.wait_for(streams[0].closed, 5)
        await accepting.close()
        await tasks.close()

    run(main())


def test_another_client_hangs_up(run: Run) -> None:
    async def main() -> None:
        arrived: list[Endpoint] = []
        server = TunnelServer("node1", authenticate, lambda _identity, endpoint: arrived.append(endpoint))
        port = await server.start("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", OPTIONS) as channel:
            call = channel.stream_stream(METHOD)()
            await call.write(encode_hello(HELLO))
            await call.read()
            await until(lambda: bool(arrived))
            call.cancel()
            assert await asyncio.wait_for(arrived[0].wait_closed(), 5) == "the laptop closed the tunnel"
        await until(lambda: not server._streams)
        await server.stop()

    run(main())
