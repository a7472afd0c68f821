"""kubectl and our client, sent through the same proxies by the same kubeconfig: both must ask them for the same."""

import asyncio
import os
import shutil
from pathlib import Path

import yaml

from tests.unit.kube.proxy_servers import socks_proxy
from tproxy.kube import config
from tproxy.kube.api import ApiCluster
from tproxy.kube.port import NAMESPACES

from .conftest import Server


def through(kubeconfig: Path, server: str, proxy: str) -> None:
    """Change the kubeconfig so."""
    document = yaml.safe_load(kubeconfig.read_text())
    document["clusters"][0]["cluster"] = {"server": server, "proxy-url": proxy}
    kubeconfig.write_text(yaml.safe_dump(document))


async def kubectl(kubeconfig: Path, home: Path) -> str:
    program = shutil.which("kubectl")
    assert program, "kubectl is needed: apt-get install kubernetes-client"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(kubeconfig)}
    process = await asyncio.create_subprocess_exec(
        program,
        *("get", "--raw", "/api/v1/namespaces"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    return out.decode()


async def ours(kubeconfig: Path) -> list[str]:
    cluster = ApiCluster(config.load(str(kubeconfig)))
    try:
        return [found["metadata"]["name"] for found in await cluster.list(NAMESPACES)]
    finally:
        await cluster.close()


def test_a_socks_proxy_is_asked_for_what_kubectl_asks_for(server: Server, kubeconfig: Path, tmp_path: Path) -> None:
    """The name as it is, which only the proxy knows, and the login."""

    async def scenario() -> None:
        for scheme, login in (("socks5", None), ("socks5h", None), ("socks5", ("ada", "s3cret"))):
            async with socks_proxy(server.port, login) as proxy:
                who = f"{login[0]}:{login[1]}@" if login else ""
                through(kubeconfig, f"http://api.test:{server.port}", f"{scheme}://{who}{proxy.address}")
                if scheme == "socks5":  # kubectl takes `socks5h` from 1.31 on
                    assert '"default"' in await kubectl(kubeconfig, tmp_path)
                    asked, logins = list(proxy.asked), list(proxy.logins)
                    proxy.asked.clear()
                    proxy.logins.clear()
                assert "default" in await ours(kubeconfig)
                assert set(proxy.asked) == set(asked) == {("api.test", server.port)}
                assert set(proxy.logins) == (set(logins) if login else set())

    asyncio.run(scenario())
