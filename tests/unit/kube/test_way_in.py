"""From a kubeconfig to an answer: every way in that kubectl has, against a server that speaks TLS and looks closely.

The server's certificate is for `api.test`, which no resolver knows: only the kubeconfig's word or a proxy gets there.
"""

import asyncio
import base64
import contextlib
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.unit.kube import certificates
from tests.unit.kube.certificates import Certificates
from tests.unit.kube.server import ApiServer, serving, status_object
from tproxy.errors import ClusterError
from tproxy.kube import transport
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.port import PODS

PATH = "/api/v1/namespaces/shop/pods"
NONE = {"metadata": {"resourceVersion": "1"}, "items": []}
NAMED = {"tls-server-name": "api.test"}

Json = dict[str, Any]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


@asynccontextmanager
async def api_server(pem: Certificates) -> AsyncIterator[ApiServer]:
    """A server that asks for a client's certificate and lets in who has none."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pem.authority))
    tls.load_cert_chain(pem.server, pem.server_key)
    tls.verify_mode = ssl.CERT_OPTIONAL
    async with serving(tls) as server:
        server.answers["GET", PATH] = NONE
        yield server


def kubeconfig(directory: Path, server: str, user: Json, cluster: Json) -> str:
    """A kubeconfig file."""
    path = directory / "config"
    document = {
        "current-context": "other",
        "contexts": [
            {"name": "other", "context": {"cluster": "c", "user": "nobody"}},
            {"name": "dev", "context": {"cluster": "c", "user": "u", "namespace": "shop"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}, {"name": "nobody", "user": {}}],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


async def ask(path: str, environ: Mapping[str, str] | None = None, times: int = 1) -> None:
    """List pods, by the context `dev`."""
    cluster = ApiCluster(load(path, "dev", environ or {}))
    try:
        for _ in range(times):
            await cluster.list(PODS, "shop")
    finally:
        await cluster.close()


def trust(pem: Certificates) -> Json:
    return {"certificate-authority": str(pem.authority), **NAMED}


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def plugin(directory: Path, body: str) -> Json:
    """A user with a credential plugin that counts its runs in the file `runs`."""
    script = directory / "login"
    script.write_text(
        f"#!{sys.executable}\nimport json, os\n"
        f"runs = open({str(directory / 'runs')!r}, 'a+'); runs.write('x'); runs.seek(0); n = len(runs.read())\n"
        "def give(**status): print(json.dumps({'kind': 'ExecCredential', 'status': status,"
        " 'apiVersion': 'client.authentication.k8s.io/v1'}))\n" + body
    )
    script.chmod(stat.S_IRWXU)
    api = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": api, "command": str(script), "interactiveMode": "Never"}}


def refusing(server: ApiServer, good: Callable[[str], bool]) -> None:
    """Have the server ask for an Authorization that is `good`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if good(request.headers.get("Authorization", "")):
            return web.json_response(NONE)
        return web.json_response(status_object(401, "Unauthorized", "Unauthorized"), status=401)

    server.answers["GET", PATH] = answer


def subject(server: ApiServer) -> list[str]:
    """Have the server note whose client certificates it sees."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        shown = request.transport.get_extra_info("peercert") or {}
        seen.append(dict(part[0] for part in shown.get("subject", ())).get("commonName", ""))
        return web.json_response(NONE)

    server.answers["GET", PATH] = answer
    return seen


# Trust


def test_the_authority_and_the_name_of_the_kubeconfig(tmp_path: Path, pem: Certificates) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, trust(pem)))
            inline = {"certificate-authority-data": data(pem.authority), **NAMED}
            await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, inline))
            assert {seen.headers["Authorization"] for seen in server.seen} == {"Bearer t"}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        (lambda pem: NAMED, "certificate is not trusted"),
        (lambda pem: {"certificate-authority": str(pem.authority)}, "certificate is not trusted"),
        (lambda pem: {**trust(pem), "tls-server-name": "other.test"}, "certificate is not trusted"),
    ],
    ids=["an unknown authority", "the name in the URL", "another name"],
)
def test_who_is_not_trusted_gets_no_token(
    tmp_path: Path, pem: Certificates, cluster: Callable[[Certificates], Json], says: str
) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            with pytest.raises(ClusterError, match=says):
                await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, cluster(pem)))
            assert server.seen == []

    asyncio.run(main())


def test_insecure_skip_tls_verify(tmp_path: Path, pem: Certificates) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            await ask(kubeconfig(tmp_path, server.url, {"token": "t"}, {"insecure-skip-tls-verify": True}))
            assert len(server.seen) == 1

    asyncio.run(main())


# Who we are


def test_client_certificates(tmp_path: Path, pem: Certificates) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            seen = subject(server)
            files = {"client-certificate": str(pem.client), "client-key": str(pem.client_key)}
            inline = {"client-certificate-data": data(pem.client), "client-key-data": data(pem.client_key)}
            given = (
                f"give(clientCertificateData={pem.client.read_text()!r}, clientKeyData={pem.client_key.read_text()!r})"
            )
            for user in (files, inline, plugin(tmp_path, given), {}):
                await ask(kubeconfig(tmp_path, server.url, user, trust(pem)))
            assert seen == ["client", "client", "client", ""]

    asyncio.run(main())


def test_a_token_file_that_is_rotated(tmp_path: Path, pem: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the minute that a token from a file is good for: the server says that it no longer is."""
    token = tmp_path / "token"

    async def main() -> None:
        async with api_server(pem) as server:
            refusing(server, lambda sent: sent == f"Bearer {token.read_text().strip()}")
            token.write_text("first\n")
            path = kubeconfig(tmp_path, server.url, {"tokenFile": "token"}, trust(pem))
            cluster = ApiCluster(load(path, "dev", {}))
            try:
                await cluster.list(PODS, "shop")
                token.write_text("second\n")
                await cluster.list(PODS, "shop")
            finally:
                await cluster.close()
            sent = [seen.headers["Authorization"] for seen in server.seen]
            assert sent == ["Bearer first", "Bearer first", "Bearer second"]

    asyncio.run(main())


def test_a_plugin_is_run_again_when_its_token_is_refused(
    tmp_path: Path, pem: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and not for every request: a login window each time would be no joke."""
    monkeypatch.setattr(transport, "_FORCED_SECONDS", 60.0)

    async def main() -> None:
        async with api_server(pem) as server:
            refusing(server, lambda sent: sent == "Bearer t2")
            path = kubeconfig(tmp_path, server.url, plugin(tmp_path, "give(token=f't{n}')"), trust(pem))
            await ask(path, times=3)
            assert (tmp_path / "runs").read_text() == "xx"

    asyncio.run(main())


def test_a_kubeconfig_that_is_logged_in_anew(tmp_path: Path, pem: Certificates) -> None:
    """As by `az login` or `oc login`, which write the new token into the file."""

    async def main() -> None:
        async with api_server(pem) as server:
            path = kubeconfig(tmp_path, server.url, {"token": "old"}, trust(pem))
            cluster = ApiCluster(load(path, "dev", {}))
            try:
                await cluster.list(PODS, "shop")
                refusing(server, lambda sent: sent == "Bearer new")
                kubeconfig(tmp_path, server.url, {"token": "new"}, trust(pem))
                await cluster.list(PODS, "shop")
            finally:
                await cluster.close()

    asyncio.run(main())


def test_impersonation_arrives_whole(tmp_path: Path, pem: Certificates) -> None:
    user = {"token": "t", "as": "jane", "as-groups": ["dev", "ops"], "as-user-extra": {"scope": ["a", "b"]}}
    got: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        got.extend((name, value) for name, value in request.headers.items() if name.startswith("Impersonate"))
        return web.json_response(NONE)

    async def main() -> None:
        async with api_server(pem) as server:
            server.answers["GET", PATH] = answer
            await ask(kubeconfig(tmp_path, server.url, user, trust(pem)))

    asyncio.run(main())
    assert got == [
        ("Impersonate-User", "jane"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-scope", "a"),
        ("Impersonate-Extra-scope", "b"),
    ]


# Proxies


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP proxy that knows where `api.test` is; its address, and the heads of requests it got."""
    heads: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while got := await reader.read(65536):
                writer.write(got)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, onward_writer), pump(onward_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()


@pytest.mark.parametrize("how", ["proxy-url", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "no scheme"])
def test_through_a_proxy_the_servers_own_name_is_checked(tmp_path: Path, pem: Certificates, how: str) -> None:
    async def main() -> None:
        async with api_server(pem) as server:
            port = int(server.url.rpartition(":")[2])
            async with proxy(port) as (address, heads):
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
            async with proxy(port) as (address, heads):
                environ = {"HTTPS_PROXY": f"http://{address}", "NO_PROXY": "api.test"}
                cluster = {"certificate-authority": str(pem.authority)}
                path = kubeconfig(tmp_path, f"https://api.test:{port}", {"token": "t"}, cluster)
                with pytest.raises(ClusterError, match="its name cannot be resolved"):
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
