"""The gRPC transport over the loopback: who gets in, who does not, and what happens when a side goes away."""

import asyncio
import dataclasses
import hashlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest
import uvloop

from tests.unit.tunnel.conftest import Run
from tests.unit.tunnel.joined import Recorder
from tests.unit.tunnel.live import REQUEST, TOKEN, authenticate, over_grpc, serving, until
from tproxy.errors import ClusterError, DeniedError
from tproxy.rpc import client, server
from tproxy.rpc.calls import METHOD, ClientCall
from tproxy.rpc.client import connect
from tproxy.rpc.messages import MAX_MESSAGE_BYTES
from tproxy.rpc.server import TunnelServer
from tproxy.tunnel import hello, wire
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.endpoint import Endpoint
from tproxy.tunnel.hello import Hello

GOOD = Hello("shop", "alice", TOKEN)

OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def no_connections(conn: Conn) -> None:
    """These tests open none."""
    raise AssertionError("a connection was opened")


def nobody(_identity: str, _endpoint: Endpoint) -> None:
    """Nobody may get this far."""
    raise AssertionError("somebody got in")


@asynccontextmanager
async def raw_call(port: int) -> "AsyncIterator[grpc.aio.StreamStreamCall[bytes, bytes]]":
    """A call without manners."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as transport:
        yield transport.stream_stream(METHOD)()


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server logged."""
    return [str(record.reason) for record in caplog.records if record.message == "tunnel refused"]  # type: ignore[attr-defined]


# Who gets in


def test_a_laptop_with_the_token_gets_in(run: Run, opening: client.Opening) -> None:
    async def main() -> None:
        arrived: list[tuple[str, Endpoint]] = []
        async with serving(lambda identity, endpoint: arrived.append((identity, endpoint))) as (listening, port):
            laptop = await connect(f"127.0.0.1:{port}", GOOD, no_connections, opening=opening)
            await until(lambda: bool(arrived))
            identity, node = arrived[0]
            assert identity == "alice"
            assert laptop.peer_software == node.peer_software == GOOD.software
            await until(lambda: laptop.stats.rtt > 0 and node.stats.rtt > 0)
            laptop.close()
            await asyncio.wait_for(node.wait_closed(), 5)
            assert listening.refused == 0

    run(main())


@pytest.mark.parametrize(
    "bad",
    [dataclasses.replace(GOOD, token=b"x" * 32), dataclasses.replace(GOOD, token=b"")],
    ids=["wrong token", "no token"],
)
def test_without_the_token_nothing_opens(run: Run, caplog: pytest.LogCaptureFixture, bad: Hello) -> None:
    async def main() -> None:
        async with serving(nobody) as (listening, port):
            for _ in range(3):
                with pytest.raises(DeniedError, match="refused the session") as caught:
                    await connect(f"127.0.0.1:{port}", bad, no_connections)
            assert "tproxy" in caught.value.hint
            assert listening.refused == 3

    run(main())
    assert len(refusals(caplog)) == 1
    assert "x" * 32 not in caplog.text


@pytest.mark.parametrize(("low", "high", "older"), [(7, 9, "node"), (0, 0, "")])
def test_without_a_common_version_the_older_side_is_named(
    run: Run, caplog: pytest.LogCaptureFixture, low: int, high: int, older: str
) -> None:
    async def main() -> None:
        async with serving(nobody) as (_, port):
            other = dataclasses.replace(GOOD, version=high, min_version=low)
            if older:
                with pytest.raises(ClusterError, match=f"upgrade tproxy on the {older}"):
                    await connect(f"127.0.0.1:{port}", other, no_connections)
            else:
                with pytest.raises(DeniedError, match="no protocol version"):
                    await connect(f"127.0.0.1:{port}", other, no_connections)

    run(main())
    assert len(refusals(caplog)) == 1


def test_an_older_laptop_is_told_to_upgrade(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(nobody) as (_, port):
            monkeypatch.setattr(hello, "PROTOCOL_VERSION", 3)
            monkeypatch.setattr(hello, "MIN_PROTOCOL_VERSION", 2)
            with pytest.raises(ClusterError, match="upgrade tproxy on the laptop") as caught:
                await connect(f"127.0.0.1:{port}", GOOD, no_connections)
            assert caught.value.exit_code == 3

    run(main())


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"garbage",
        os.urandom(100),
        wire.ping_frame(1),
        wire.data_header(wire.data_prefix(1), 5) + b"hello",
        hello.encode_hello(GOOD) + wire.ping_frame(1),
        bytes(1_000_000),
        bytes(MAX_MESSAGE_BYTES + 1),
    ],
    ids=["empty", "text", "random", "ping", "data", "two frames", "long", "too long for gRPC"],
)
def test_anything_but_hello_is_refused(run: Run, caplog: pytest.LogCaptureFixture, first: bytes) -> None:
    async def main() -> None:
        async with serving(nobody) as (listening, port):
            for _ in range(2):
                async with raw_call(port) as call:
                    await call.write(first)
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call.read()
                    assert caught.value.code() in (
                        grpc.StatusCode.UNAUTHENTICATED,
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                    )
            await until(lambda: listening._unauthenticated == 0)

    run(main())
    assert len(refusals(caplog)) == 1


def test_a_long_first_message_is_refused_by_its_length_alone(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Also where it begins in one segment with the request: nothing of it is waited for."""
    call = ClientCall("node", "test", "http")
    begun = bytes(1) + (100_000).to_bytes(4, "big") + b"not all of it"
    data = b"".join(call.output) + len(begun).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big") + begun

    async def main() -> None:
        async with serving(nobody, hello_seconds=60) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            await until(lambda: bool(refusals(caplog)))
            writer.close()

    run(main())
    assert refusals(caplog) == ["the first batch is too long"]


def test_whoever_says_nothing_is_shown_out(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(nobody, hello_seconds=0.1) as (listening, port), raw_call(port) as call:
            with pytest.raises(grpc.aio.AioRpcError, match="no HELLO in time"):
                await call.read()
            await until(lambda: listening._unauthenticated == 0)

    run(main())
    assert refusals(caplog) == ["no HELLO in time"]


def test_only_so_many_may_say_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_UNAUTHENTICATED", 3)

    async def main() -> None:
        async with serving(nobody) as (listening, port), raw_call(port) as one, raw_call(port) as two:
            async with raw_call(port) as three:
                for call in (one, two, three):
                    await call.wait_for_connection()
                await until(lambda: listening._unauthenticated == 3)
                async with raw_call(port) as four:
                    with pytest.raises(grpc.aio.AioRpcError, match="too many streams"):
                        await four.read()
            await until(lambda: listening._unauthenticated == 2)  # those who left make room

    run(main())


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(500), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500],
)
def test_bytes_that_are_no_grpc_do_nothing(run: Run, capfd: pytest.CaptureFixture[str], noise: bytes) -> None:
    async def main() -> None:
        arrived: list[Endpoint] = []
        async with serving(lambda _identity, endpoint: arrived.append(endpoint)) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            with suppress(ConnectionResetError, TimeoutError):
                await asyncio.wait_for(reader.read(), 2)
            writer.close()
            assert not arrived
            laptop = await connect(f"127.0.0.1:{port}", GOOD, no_connections)
            laptop.close()

    run(main())
    assert capfd.readouterr().err == ""


def test_an_unknown_method_is_unimplemented(run: Run) -> None:
    async def main() -> None:
        async with serving(nobody) as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as transport:
            call = transport.stream_stream("/tproxy.v1.Tunnel/Other")()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(main())


def test_an_error_in_authentication_opens_nothing(run: Run) -> None:
    async def broken(_hello: Hello) -> str:
        raise ZeroDivisionError

    async def main() -> None:
        listening = TunnelServer("node1", broken, nobody)
        port = await listening.start("127.0.0.1", 0)
        with pytest.raises(ClusterError, match="cannot reach"):
            await connect(f"127.0.0.1:{port}", GOOD, no_connections)
        await listening.stop()

    run(main())


# Addresses


def test_nobody_listens(run: Run, opening: client.Opening) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        with pytest.raises(ClusterError, match="cannot reach the node daemon") as caught:
            await connect(f"127.0.0.1:{port}", GOOD, no_connections, opening=opening)
        assert caught.value.hint

    run(main())


def test_somebody_else_listens(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tproxy.rpc.client.CONNECT_SECONDS", 0.5)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ClusterError, match="does not answer"):
            await connect(f"127.0.0.1:{silent.getsockname()[1]}", GOOD, no_connections)

    run(main())


def test_a_taken_port(run: Run) -> None:
    async def main() -> None:
        async with serving(nobody) as (_, port):
            with pytest.raises(ClusterError, match="cannot listen on"):
                await TunnelServer("node2", authenticate, nobody).start("127.0.0.1", port)

    run(main())


def test_ipv6_and_unix_sockets(run: Run, tmp_path: Path) -> None:
    """Port-forward offers a unix socket and passes the bytes on."""

    async def main() -> None:
        arrived: list[Endpoint] = []
        listening = TunnelServer("node1", authenticate, lambda _identity, endpoint: arrived.append(endpoint))
        port = await listening.start("::1", 0)

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("::1", port)

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    sink.write(data)
                sink.close()

            await asyncio.gather(pump(reader, back), pump(there, writer))

        forwarder = await asyncio.start_unix_server(forward, tmp_path / "s")
        laptops = [
            await connect(target, GOOD, no_connections) for target in (f"[::1]:{port}", f"unix:{tmp_path / 's'}")
        ]
        await until(lambda: all(laptop.stats.rtt > 0 for laptop in laptops))
        for laptop in laptops:
            laptop.close()
        assert len(arrived) == 2
        for endpoint in arrived:
            await asyncio.wait_for(endpoint.wait_closed(), 5)
        forwarder.close()
        await listening.stop()

    run(main())


def test_a_proxy_from_the_environment_is_not_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")

    async def main() -> None:
        async with serving(lambda _identity, _endpoint: None) as (_, port):
            (await connect(f"127.0.0.1:{port}", GOOD, no_connections)).close()

    run(main())


# Who goes away


def test_a_stopping_node_says_so_and_is_quick(run: Run, opening: client.Opening) -> None:
    async def main() -> None:
        listening = TunnelServer("node1", authenticate, lambda _identity, _endpoint: None)
        port = await listening.start("127.0.0.1", 0)
        laptops = [await connect(f"127.0.0.1:{port}", GOOD, no_connections, opening=opening) for _ in range(3)]
        # A laptop whose own write fails first hears only that: wait until none is under way.
        await until(lambda: all(laptop.stats.rtt > 0 for laptop in laptops))
        began = time.monotonic()
        await listening.stop()
        reasons = await asyncio.gather(*(asyncio.wait_for(laptop.wait_closed(), 5) for laptop in laptops))
        assert time.monotonic() - began < 1.0
        assert reasons == ["the node daemon is stopping"] * 3

    run(main())


def test_a_broken_connection_ends_both_sides(run: Run, opening: client.Opening) -> None:
    async def main() -> None:
        arrived: list[Endpoint] = []
        async with serving(lambda _identity, endpoint: arrived.append(endpoint)) as (_, port):
            streams: list[asyncio.StreamWriter] = []

            async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there, back = await asyncio.open_connection("127.0.0.1", port)
                streams.extend((writer, back))

                async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                    try:
                        while data := await source.read(65536):
                            sink.write(data)
                    except ConnectionError:
                        pass

                await asyncio.gather(pump(reader, back), pump(there, writer))

            forwarder = await asyncio.start_server(forward, "127.0.0.1", 0)
            address = forwarder.sockets[0].getsockname()
            laptop = await connect(f"127.0.0.1:{address[1]}", GOOD, no_connections, opening=opening)
            await until(lambda: laptop.stats.rtt > 0)
            for stream in streams:
                stream.transport.abort()
            await asyncio.wait_for(laptop.wait_closed(), 2)
            await asyncio.wait_for(arrived[0].wait_closed(), 2)
            forwarder.close()

    run(main())


LAPTOP = """
import asyncio, sys
from tests.unit.tunnel.joined import Recorder
from tests.unit.tunnel.live import TOKEN
from tproxy.rpc.calls import METHOD
from tproxy.rpc.client import connect
from tproxy.tunnel.hello import Hello

def on_open(conn):
    conn.sink = Recorder(lazy=True)
    conn.accept()

async def main():
    laptop = await connect(sys.argv[1], Hello("shop", "alice", TOKEN), on_open)
    print("connected", flush=True)
    print(await laptop.wait_closed(), flush=True)

asyncio.run(main())
"""


@asynccontextmanager
async def laptop_process(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A laptop of its own, connected."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LAPTOP, f"127.0.0.1:{port}"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        assert await said_by(process) == "connected"
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def said_by(process: asyncio.subprocess.Process) -> str:
    """The next line of a process."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 10)).decode().strip()


def test_a_stopped_laptop_is_dead_within_seven_seconds_and_knows_soon_after_it_wakes() -> None:
    """Under SIGSTOP nothing reads, and the node's write hangs. Awake, the laptop must not blame the node's silence."""

    async def main() -> None:
        arrived: asyncio.Queue[Endpoint] = asyncio.Queue()
        serve = serving(lambda _identity, endpoint: arrived.put_nowait(endpoint))
        async with serve as (_, port), laptop_process(port) as process:
            node = await arrived.get()
            process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            for _ in range(40):
                node.open(REQUEST, Recorder()).write(bytes(500_000))
            assert await asyncio.wait_for(node.wait_closed(), 8) == "the laptop was silent for 6 s"
            assert 5.5 < time.monotonic() - began < 7.0
            process.send_signal(signal.SIGCONT)
            began = time.monotonic()
            assert await said_by(process) in (
                "the laptop was silent for 6 s",  # the node's words
                "the connection to the node broke",
            )
            assert time.monotonic() - began < 3.0

    asyncio.run(main())


def test_a_killed_laptop_is_gone_at_once(run: Run) -> None:
    async def main() -> None:
        arrived: asyncio.Queue[Endpoint] = asyncio.Queue()
        serve = serving(lambda _identity, endpoint: arrived.put_nowait(endpoint))
        async with serve as (_, port), laptop_process(port) as process:
            node = await arrived.get()
            process.kill()
            await asyncio.wait_for(node.wait_closed(), 1)

    run(main())


# What it carries


def test_a_thousand_connections_at_once() -> None:
    """All are open at the same time, each carries its own bytes both ways, and all of it is released."""
    count = 1000
    opened = 0
    everybody = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        line = await reader.readline()
        opened += 1
        if opened == count:
            everybody.set()
        await everybody.wait()
        writer.write(hashlib.sha256(line).digest())
        writer.close()

    async def main() -> None:
        async with over_grpc() as live, live.relay() as port:
            listener = await asyncio.start_server(app, "127.0.0.1", 0, backlog=count)
            live.app_port = listener.sockets[0].getsockname()[1]

            async def client(number: int) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                line = b"%d %s\n" % (number, b"x" * (number * 7 % 5000))
                writer.write(line)
                assert await reader.read() == hashlib.sha256(line).digest()
                writer.close()

            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(client(number))
            await until(lambda: not live.node.stats.connections and not live.laptop.stats.connections)
            listener.close()

    uvloop.run(main())


def test_tokens_are_never_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with serving(nobody) as (_, port):
            with pytest.raises(DeniedError):
                await connect(f"127.0.0.1:{port}", dataclasses.replace(GOOD, token=b"secret!!" * 4), no_connections)

    run(main())
    assert "secret!!" not in caplog.text
