"""kubectl and our client with the same kubeconfig: the API server must see the same of both, and so must plugins."""

import asyncio
import base64
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.kube import certificates
from tests.unit.kube.certificates import Certificates
from tests.unit.kube.server import ApiServer
from tests.unit.kube.way_in import NONE, PATH, api_server, ask, kubeconfig, trust

Json = dict[str, Any]
API = "client.authentication.k8s.io/"
PLUGIN = """
import json, os, pathlib, sys
told = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
pathlib.Path(sys.argv[1]).write_text(json.dumps([told, sys.argv[2:], os.environ["WHO"], sys.stdin.read()]))
status = {"token": "t", "expirationTimestamp": "2999-01-01T00:00:00Z"}
print(json.dumps({"apiVersion": told["apiVersion"], "kind": "ExecCredential", "status": status}))
"""


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


async def kubectl(path: str, home: Path) -> None:
    """List pods with the kubeconfig at `path`, by the context `dev`."""
    program = shutil.which("kubectl")
    assert program, "kubectl is needed: apt-get install kubernetes-client"
    process = await asyncio.create_subprocess_exec(
        program,
        *("--kubeconfig", path, "--context", "dev", "get", "--raw", PATH),
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 0, err


def credentials(server: ApiServer) -> list[Json]:
    """Have the server note what of each request says who it is from."""
    seen: list[Json] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        given = [(name.lower(), value) for name, value in request.headers.items()]  # Go writes them in a way of its own
        headers = [each for each in given if each[0] == "authorization" or each[0].startswith("impersonate-")]
        seen.append({"headers": sorted(headers), "certificate": request.transport.get_extra_info("peercert")})
        return web.json_response(NONE)

    server.answers["GET", PATH] = answer
    return seen


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


USERS: dict[str, Callable[[Certificates, Path], Json]] = {
    "token": lambda pem, home: {"token": "t"},
    "token file": lambda pem, home: {"tokenFile": str(home / "token")},
    "both": lambda pem, home: {"token": "t", "tokenFile": str(home / "token")},
    "password": lambda pem, home: {"username": "ada", "password": "p:w"},
    "certificate files": lambda pem, home: {"client-certificate": str(pem.client), "client-key": str(pem.client_key)},
    "certificate": lambda pem, home: {
        "client-certificate-data": data(pem.client),
        "client-key-data": data(pem.client_key),
    },
    "certificate and token": lambda pem, home: {
        "client-certificate": str(pem.client),
        "client-key": str(pem.client_key),
        "token": "t",
    },
    "impersonation": lambda pem, home: {
        "token": "t",
        "as": "jane",
        "as-groups": ["dev", "ops"],
        "as-user-extra": {"example.com/Scope": ["a", "b"], "reason": ["x"]},
    },
}


@pytest.mark.parametrize("user", USERS)
def test_the_server_sees_of_us_what_it_sees_of_kubectl(tmp_path: Path, pem: Certificates, user: str) -> None:
    (tmp_path / "token").write_text("from-the-file\n")

    async def main() -> None:
        async with api_server(pem) as server:
            seen = credentials(server)
            path = kubeconfig(tmp_path, server.url, USERS[user](pem, tmp_path), trust(pem))
            await kubectl(path, tmp_path)
            await ask(path)
            theirs, ours = seen
            assert ours == theirs

    asyncio.run(main())


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize("mode", ["Never", "IfAvailable"])
@pytest.mark.parametrize("cluster_info", [False, True])
def test_a_plugin_is_told_what_kubectl_tells_it(
    tmp_path: Path, pem: Certificates, version: str, mode: str, cluster_info: bool
) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    told = tmp_path / "told"
    entry = {
        "apiVersion": API + version,
        "command": sys.executable,
        "args": [str(tmp_path / "plugin.py"), str(told), "--cluster", "x"],
        "env": [{"name": "WHO", "value": "ada"}],
        "interactiveMode": mode,
        "provideClusterInfo": cluster_info,
    }
    extension = {"name": API + "exec", "extension": {"audience": "x", "scopes": ["a"]}}

    async def main() -> None:
        async with api_server(pem) as server:
            seen = credentials(server)
            path = kubeconfig(tmp_path, server.url, {"exec": entry}, trust(pem) | {"extensions": [extension]})
            await kubectl(path, tmp_path)
            theirs = json.loads(told.read_text())
            told.unlink()
            await ask(path)
            assert json.loads(told.read_text()) == theirs
            assert ("cluster" in theirs[0]["spec"]) == cluster_info
            assert seen[1] == seen[0]
            assert seen[0]["headers"] == [("authorization", "Bearer t")]

    asyncio.run(main())
