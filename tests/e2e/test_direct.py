"""Where node daemons say how they are reached directly: each on its own pod, and nothing but that."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from tests.chart.rights import NODE
from tests.e2e.conftest import Release
from tests.e2e.control_plane import ControlPlane
from tproxy.errors import DeniedError, TproxyError
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.port import PODS
from tproxy.model.direct import DirectWay

SYSTEM = "tproxy-system"
PODS_THERE = ("tproxy-node-one", "tproxy-node-two")
WAY = {"metadata": {"annotations": DirectWay("10.0.0.1", 4772, b"certificate").annotations()}}


@pytest.fixture
def pods(plane: ControlPlane, release: Release) -> None:
    """Two pods with the daemons' account."""
    made = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": SYSTEM},
            "spec": {"serviceAccountName": "tproxy-node", "containers": [{"name": "node", "image": "none"}]},
        }
        for name in PODS_THERE
    ]
    done = plane.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(made))
    assert done.returncode == 0, done.stderr


@asynccontextmanager
async def daemon(plane: ControlPlane, directory: Path, pod: str) -> AsyncIterator[ApiCluster]:
    """The API as the daemon in `pod` has it, by a token as the kubelet would mount it."""
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"]
    made = plane.kubectl("create", "token", "tproxy-node", "-n", SYSTEM, *bound)
    assert made.returncode == 0, made.stderr
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": made.stdout.strip()}
    path = directory / f"{pod}.kubeconfig"
    path.touch(0o600)
    path.write_text(yaml.safe_dump(config))
    cluster = ApiCluster(load(str(path), None))
    try:
        yield cluster
    finally:
        await cluster.close()


@pytest.mark.usefixtures("pods")
def test_each_daemon_writes_on_its_own_pod(plane: ControlPlane, tmp_path: Path) -> None:
    one, two = PODS_THERE

    async def main() -> None:
        async with daemon(plane, tmp_path, one) as cluster:
            assert await cluster.whoami() == NODE
            said = ""
            async with asyncio.timeout(60):  # policies take effect a while after they were made
                while not said:
                    try:
                        await cluster.patch(PODS, two, WAY, SYSTEM, "status")
                        await asyncio.sleep(0.2)
                    except TproxyError as error:
                        said = error.message
            assert "a node daemon changes the status of its own pod only" in said
            await cluster.patch(PODS, one, WAY, SYSTEM, "status")
            with pytest.raises(TproxyError, match="leaves the status of its pod to the kubelet"):
                await cluster.patch(PODS, one, {"status": {"podIP": "10.0.0.9"}}, SYSTEM, "status")
            with pytest.raises(DeniedError):
                await cluster.patch(PODS, one, WAY, SYSTEM)
        stranger = ApiCluster(load(str(plane.kubeconfig_of(NODE)), None))  # by the account's name, but in no pod
        try:
            with pytest.raises(TproxyError, match="its own pod only"):
                await stranger.patch(PODS, one, WAY, SYSTEM, "status")
        finally:
            await stranger.close()

    asyncio.run(main())
    found = json.loads(plane.kubectl("get", "pod", one, "-n", SYSTEM, "-o", "json").stdout)["metadata"]["annotations"]
    assert WAY["metadata"]["annotations"].items() <= found.items()


@pytest.mark.usefixtures("release")
def test_the_policy_s_expressions_are_understood(plane: ControlPlane) -> None:
    policy = ("get", "validatingadmissionpolicy", "tproxy-node-own-pod", "-o")
    plane.wait("types checked", *policy, "jsonpath={.status.observedGeneration}", until="1")
    assert plane.kubectl(*policy, "jsonpath={.status.typeChecking.expressionWarnings}").stdout == ""
