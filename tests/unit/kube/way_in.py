"""A server that speaks TLS and looks closely, and kubeconfigs that lead to it.

Its certificate is for `api.test`, which no resolver knows: only the kubeconfig's word or a proxy gets there.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.unit.kube.certificates import Certificates
from tests.unit.kube.server import ApiServer, serving
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.port import PODS

PATH = "/api/v1/namespaces/shop/pods"
NONE = {"metadata": {"resourceVersion": "1"}, "items": []}
NAMED = {"tls-server-name": "api.test"}

Json = dict[str, Any]


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
