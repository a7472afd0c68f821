"""From a kubeconfig to an answer: every way in that kubectl has, against a server that speaks TLS and looks closely.

The server's certificate is for `api.test`, which no resolver knows: only the kubeconfig's word or a proxy gets there.
"""

import asyncio
import base64
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.unit.kube import certificates
from tests.unit.kube.certificates import Certificates
from tests.unit.kube.server import ApiServer, status_object
from tests.unit.kube.way_in import NAMED, NONE, PATH, Json, api_server, ask, kubeconfig, trust
from tproxy.errors import ClusterError
from tproxy.kube import transport
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.port import PODS


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


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
