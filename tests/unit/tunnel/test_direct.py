"""The direct way: by TLS, to whoever shows exactly the published certificate, and with the token as on any way."""

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest

from tests.unit.tunnel.conftest import Run
from tests.unit.tunnel.live import TOKEN, authenticate, serving, until
from tproxy import accepting
from tproxy.errors import ClusterError, DeniedError, InvalidError
from tproxy.model.direct import SERVER_NAME, DirectWay
from tproxy.rpc import certificate, client, server
from tproxy.rpc.certificate import ServerCertificate
from tproxy.rpc.client import connect
from tproxy.rpc.reach import OTHER_WAY, UnreachableError, reach, trusting
from tproxy.rpc.server import TunnelServer
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Conn
from tproxy.tunnel.endpoint import Endpoint
from tproxy.tunnel.hello import Hello

GOOD = Hello("shop", "alice", TOKEN)


def no_connections(conn: Conn) -> None:
    """These tests open none."""
    raise AssertionError("a connection was opened")


@asynccontextmanager
async def exposed(
    on_endpoint: Callable[[str, Endpoint], None] = lambda _identity, _endpoint: None,
) -> "AsyncIterator[tuple[TunnelServer[str], DirectWay, ServerCertificate]]":
    """A server behind TLS on the loopback, and the way to it."""
    server, made = TunnelServer("node1", authenticate, on_endpoint), certificate.make()
    way = DirectWay("127.0.0.1", await server.start("127.0.0.1", 0, made), made.der)
    try:
        yield server, way, made
    finally:
        await server.stop()


def test_a_laptop_with_the_token_gets_in(run: Run, opening: client.Opening) -> None:
    async def main() -> None:
        arrived: list[Endpoint] = []
        async with exposed(lambda _identity, endpoint: arrived.append(endpoint)) as (_, way, _made):
            laptop = await connect(str(way), GOOD, no_connections, way.certificate, opening)
            await until(lambda: bool(arrived))
            assert await reach(way, "node1") < 5
            laptop.close()
            await asyncio.wait_for(arrived[0].wait_closed(), 5)

    run(main())


def test_the_token_is_asked_for_all_the_same(run: Run, opening: client.Opening) -> None:
    async def main() -> None:
        async with exposed() as (server, way, _made):
            with pytest.raises(DeniedError):
                await connect(
                    str(way),
                    dataclasses.replace(GOOD, token=b"x" * 32),
                    no_connections,
                    way.certificate,
                    opening=opening,
                )
            assert server.refused == 1

    run(main())


def test_another_certificate_is_refused(run: Run, opening: client.Opening) -> None:
    """Also one for the same name, from whoever sits in between; the token is not sent."""

    async def main() -> None:
        async with exposed() as (server, way, _made):
            other = dataclasses.replace(way, certificate=certificate.make().der)
            with pytest.raises(ClusterError):
                await connect(str(other), GOOD, no_connections, other.certificate, opening)
            with pytest.raises(UnreachableError, match="shows another certificate than the one it published"):
                await reach(other, "node1")
            assert server.refused == 0

    run(main())


def test_a_certificate_signed_by_the_published_one_is_refused(run: Run, opening: client.Opening) -> None:
    """The published one is no authority: with its key one could make others, and they would not be it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    async def main() -> None:
        made, second = certificate.make(), certificate.make()
        authority = load_pem_private_key(made.key, None)
        assert isinstance(authority, ec.EllipticCurvePrivateKey)
        issuer, leaf = x509.load_der_x509_certificate(made.der), x509.load_der_x509_certificate(second.der)
        signed = (
            x509.CertificateBuilder()
            .subject_name(leaf.subject)
            .issuer_name(issuer.subject)
            .public_key(leaf.public_key())
            .serial_number(1)
            .not_valid_before(leaf.not_valid_before_utc)
            .not_valid_after(leaf.not_valid_after_utc)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
            .sign(authority, SHA256())
        )
        shown = ServerCertificate(
            signed.public_bytes(Encoding.PEM) + made.pem, second.key, signed.public_bytes(Encoding.DER)
        )
        server = TunnelServer("node1", authenticate, lambda _identity, _endpoint: None)
        way = DirectWay("127.0.0.1", await server.start("127.0.0.1", 0, shown), made.der)
        try:
            with pytest.raises(ClusterError):
                await connect(str(way), GOOD, no_connections, way.certificate, opening)
            with pytest.raises(UnreachableError, match="another certificate"):
                await reach(way, "node1")
            assert server.refused == 0
        finally:
            await server.stop()

    run(main())


def test_plaintext_gets_nowhere(run: Run) -> None:
    """Neither a laptop at a door with TLS, nor one that expects TLS at a door without."""

    async def main() -> None:
        async with exposed() as (server, way, _made):
            with pytest.raises(ClusterError):
                await connect(str(way), GOOD, no_connections)
            assert server.refused == 0
        async with serving(lambda _identity, _endpoint: None) as (plain, port):
            wrong = DirectWay("127.0.0.1", port, certificate.make().der)
            with pytest.raises(ClusterError):
                await connect(str(wrong), GOOD, no_connections, wrong.certificate)
            with pytest.raises(UnreachableError, match="does not speak TLS"):
                await reach(wrong, "node1")
            assert plain.refused == 0

    run(main())


def test_who_does_not_answer(run: Run) -> None:
    async def main() -> None:
        der = certificate.make().der
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: connection refused") as refused:
            await reach(DirectWay("127.0.0.1", 1, der), "node1")
        assert refused.value.hint == OTHER_WAY
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            pytest.raises(UnreachableError, match="a firewall may be in between"),
        ):
            await reach(DirectWay("127.0.0.1", silent.getsockname()[1], der), "node1", 0.2)
        with pytest.raises(UnreachableError, match="its name cannot be resolved"):
            await reach(DirectWay("no-such-host.invalid", 1, der), "node1")

    run(main())


def test_a_connection_that_is_cut_is_said_in_plain_words(run: Run) -> None:
    """By whatever is in between; gRPC's own words are no use to a person."""

    async def main() -> None:
        cut = asyncio.Event()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)
            tasks = Tasks("relay")
            tasks.start(copy(reader, onward_writer), "there")
            tasks.start(copy(onward_reader, writer), "back")
            await cut.wait()
            writer.transport.abort()
            onward_writer.transport.abort()
            await tasks.close()

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)

        async with serving(lambda _identity, _endpoint: None) as (_, port):
            between = await asyncio.start_server(relay, "127.0.0.1", 0)
            address = f"127.0.0.1:{between.sockets[0].getsockname()[1]}"
            laptop = await connect(address, GOOD, no_connections)
            await until(lambda: laptop.stats.rtt > 0)
            cut.set()
            reason = await asyncio.wait_for(laptop.wait_closed(), 5)
            between.close()
        assert reason == "the connection to the node broke"

    run(main())


def test_what_is_no_certificate() -> None:
    with pytest.raises(InvalidError, match="no certificate"):
        trusting(b"\x30\x03\x02\x01\x01")


def test_strangers_use_up_no_descriptors(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections beyond the limit are closed at once, those that say nothing after a while."""
    monkeypatch.setattr(server, "MAX_EXPOSED", 4)
    monkeypatch.setattr(accepting, "HANDSHAKE_SECONDS", 1.0)

    async def main() -> None:
        async with exposed() as (_, way, _made):
            loop = asyncio.get_running_loop()
            with ExitStack() as stack:
                opened = [stack.enter_context(socket.create_connection((way.host, way.port))) for _ in range(8)]
                for one in opened:
                    one.setblocking(False)
                async with asyncio.timeout(5):
                    ends = {loop.create_task(loop.sock_recv(one, 1)) for one in opened}
                    refused, held = set[asyncio.Task[bytes]](), ends
                    while len(refused) < 4:
                        ended, held = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
                        refused |= ended
                    assert held
                    await asyncio.wait(held)
            laptop = await connect(str(way), GOOD, no_connections, way.certificate)
            laptop.close()

    run(main())


def test_the_key_stays_where_it_is() -> None:
    made = certificate.make()
    assert b"PRIVATE KEY" in made.key
    assert "PRIVATE" not in repr(made)
    assert ssl.DER_cert_to_PEM_cert(made.der).encode().strip() == made.pem.strip()
