"""Through proxies to the API server, by HTTP and by SOCKS5: names, logins, TLS, and what is said when they fail."""

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import uvloop
from aiohttp import web

from tests.unit.kube import certificates
from tests.unit.kube.certificates import Certificates
from tests.unit.kube.proxy_servers import http_proxy, socks_proxy
from tests.unit.kube.way_in import PATH, api_server, ask, kubeconfig, trust
from tproxy.errors import ClusterError
from tproxy.kube import transport
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.portforward import PortForward


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


@pytest.mark.parametrize("how", ["proxy-url", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "no scheme"])
def test_through_a_proxy_the_servers_own_name_is_checked(tmp_path: Path, pem: Certificates, how: str) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            port = int(server.url.rpartition(":")[2])
            async with http_proxy(port) as (address, heads):
                url = f"http://ada:s3cret@{address}"
                cluster = {"certificate-authority": str(pem.authority)}
                if how == "proxy-url":
                    cluster["proxy-url"] = url
                path = kubeconfig(tmp_path, f"https://api.test:{port}", {"token": "t"}, cluster)
                bare = {"HTTPS_PROXY": url.removeprefix("http://")}
                await ask(path, {"proxy-url": {}, "no scheme": bare}.get(how, {how: url}))
                assert len(server.seen) == 1
                assert len(heads) == 1
                assert heads[0].startswith(f"CONNECT api.test:{port} ".encode())
                login = base64.b64encode(b"ada:s3cret")
                assert b"Proxy-Authorization: Basic " + login in heads[0]
                assert b"Bearer" not in heads[0]
                assert "Proxy-Authorization" not in server.seen[0].headers

    asyncio.run(main())


def test_no_proxy_exempts_the_server(tmp_path: Path, pem: Certificates) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            port = int(server.url.rpartition(":")[2])
            async with http_proxy(port) as (address, heads):
                environ = {"HTTPS_PROXY": f"http://{address}", "NO_PROXY": "api.test"}
                cluster = {"certificate-authority": str(pem.authority)}
                path = kubeconfig(tmp_path, f"https://api.test:{port}", {"token": "t"}, cluster)
                with pytest.raises(ClusterError, match=r"the name api\.test cannot be resolved"):
                    await ask(path, environ)
                assert heads == []

    asyncio.run(main())


def test_a_proxy_that_is_not_there(tmp_path: Path, pem: Certificates) -> None:
    """The sentence has no password in it."""

    async def main() -> None:
        async with api_server(pem) as server:
            cluster = trust(pem) | {"proxy-url": "http://ada:s3cret@127.0.0.1:1"}
            with pytest.raises(ClusterError) as caught:
                await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, cluster))
            assert "connection refused" in caught.value.message
            assert "s3cret" not in caught.value.message + caught.value.hint
            assert server.seen == []

    asyncio.run(main())


def test_a_proxy_that_lets_nobody_through(tmp_path: Path, pem: Certificates) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def main() -> None:
        async with api_server(pem) as server, await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
            cluster = trust(pem) | {"proxy-url": f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"}
            with pytest.raises(ClusterError, match="its proxy answered 407 Proxy Authentication Required"):
                await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, cluster))

    asyncio.run(main())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_proxy_spoken_to_by_tls(
    tmp_path: Path, pem: Certificates, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """TLS inside TLS; the cluster's authority vouches for the proxy, as with kubectl."""

    async def main() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pem.server, pem.server_key)
        async with api_server(pem) as server:
            port = int(server.url.rpartition(":")[2])
            async with http_proxy(port, tls) as (address, heads):
                url = address.replace("127.0.0.1", "https://ada:s3cret@localhost")
                await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, trust(pem) | {"proxy-url": url}))
            assert len(server.seen) == 1
            assert heads[0].startswith(f"CONNECT 127.0.0.1:{port} ".encode())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


# SOCKS5


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("login", [None, ("ada", "s3cret:/@")])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_through_socks(
    tmp_path: Path,
    pem: Certificates,
    scheme: str,
    login: tuple[str, str] | None,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The proxy resolves the server's name, and TLS checks it."""

    async def main() -> None:
        async with api_server(pem) as server:
            port = int(server.url.rpartition(":")[2])
            async with socks_proxy(port, login) as proxy:
                who = ":".join(quote(part, safe="") for part in login) + "@" if login else ""
                cluster = {"certificate-authority": str(pem.authority), "proxy-url": f"{scheme}://{who}{proxy.address}"}
                await ask(kubeconfig(tmp_path, f"https://api.test:{port}", {"token": "t"}, cluster), times=2)
            assert proxy.asked == [("api.test", port)]
            assert proxy.logins == ([login] if login else [])
            assert [seen.headers["Authorization"] for seen in server.seen] == ["Bearer t"] * 2

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_through_socks_the_kubeconfigs_name_is_checked(tmp_path: Path, pem: Certificates) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            port = int(server.url.rpartition(":")[2])
            async with socks_proxy(port) as proxy:
                cluster = trust(pem) | {"proxy-url": f"socks5://{proxy.address}"}
                await ask(kubeconfig(tmp_path, f"https://127.0.0.2:{port}", {"token": "t"}, cluster))
                assert proxy.asked == [("127.0.0.2", port)]
                del cluster["tls-server-name"]
                with pytest.raises(ClusterError, match="its certificate is not trusted"):
                    await ask(kubeconfig(tmp_path, f"https://127.0.0.2:{port}", {"token": "t"}, cluster))
            assert len(server.seen) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("login", "refusal", "says"),
    [
        (("ada", "other"), 0, "refused: username and password authentication failure"),
        (None, 4, "refused: host unreachable"),
        (None, 5, "refused: connection refused"),
    ],
)
def test_a_socks_proxy_that_refuses(
    tmp_path: Path, pem: Certificates, login: tuple[str, str] | None, refusal: int, says: str
) -> None:
    async def main() -> None:
        async with api_server(pem) as server, socks_proxy(1, login, refusal) as proxy:
            cluster = trust(pem) | {"proxy-url": f"socks5://ada:s3cret@{proxy.address}"}
            with pytest.raises(ClusterError) as caught:
                await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, cluster))
            assert f"its proxy {proxy.address} {says}" in caught.value.message
            assert "s3cret" not in caught.value.message + caught.value.hint

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "its proxy 127.0.0.1:1 cannot be reached: connection refused"),
        ("proxy.invalid", "the name proxy.invalid cannot be resolved"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_cannot_be_reached_is_named(
    tmp_path: Path, pem: Certificates, scheme: str, address: str, says: str
) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            cluster = trust(pem) | {"proxy-url": f"{scheme}://ada:s3cret@{address}"}
            with pytest.raises(ClusterError) as caught:
                await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, cluster))
            assert says in caught.value.message
            assert "s3cret" not in caught.value.message + caught.value.hint

    asyncio.run(main())


def test_a_socks_proxy_that_is_silent(tmp_path: Path, pem: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            cluster = {"proxy-url": f"socks5://127.0.0.1:{silent.getsockname()[1]}"}
            with pytest.raises(ClusterError, match=r"its proxy .* did not answer in time"):
                await ask(kubeconfig(tmp_path, "http://api.test", {"token": "t"}, cluster))

    asyncio.run(main())


def test_a_port_forward_through_socks(tmp_path: Path, pem: Certificates) -> None:
    """Its WebSocket is the same connection, taken over from aiohttp."""

    async def pod(request: web.Request) -> web.StreamResponse:
        link = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await link.prepare(request)
        for channel in (0, 1):
            await link.send_bytes(bytes((channel,)) + (80).to_bytes(2, "little"))
        await link.send_bytes(b"\0" + b"you said " + (await link.receive_bytes())[1:])
        await link.close()
        return link

    async def main() -> None:
        async with api_server(pem) as server:
            server.answers["GET", f"{PATH}/web/portforward"] = pod
            port = int(server.url.rpartition(":")[2])
            async with socks_proxy(port) as proxy:
                settings = {"certificate-authority": str(pem.authority), "proxy-url": f"socks5://{proxy.address}"}
                path = kubeconfig(tmp_path, f"https://api.test:{port}", {"token": "t"}, settings)
                cluster = ApiCluster(load(path, "dev", {}))
                forward = PortForward(cluster, "shop", "web", 80, tmp_path / "sockets")
                try:
                    reader, writer = await asyncio.open_unix_connection(await forward.start())
                    writer.write(b"hello")
                    assert await reader.read() == b"you said hello"
                    writer.close()
                finally:
                    await forward.close()
                    await cluster.close()
                assert set(proxy.asked) == {("api.test", port)}

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())
