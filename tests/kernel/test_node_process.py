"""The node daemon as a process: start, doors, memory, metrics."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.answering import PORT
from tests.kernel.namespaces import Namespaces, until
from tests.kernel.node import NAMESPACE, ROOT, Laptop, Stage, until_async
from tests.kernel.scenes import Play, app, intercepted, rss, who
from tproxy.errors import DeniedError
from tproxy.kube.port import SESSIONS


def test_without_the_token_nothing(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        pod, laptop = await stage.pod("web-1"), Laptop(stage, "alice")
        laptop.intercept()
        laptop.token, right = b"m" * 32, laptop.token
        async with app(pod):
            for _ in range(2):
                with pytest.raises(DeniedError):
                    await laptop.connect()
            assert stage.states() == {"web-1": "NoTunnel"}
            assert await who(pod) == "app"
        refused = [line for line in stage.logged() if line["message"] == "tunnel refused"]
        assert len(refused) == 1, "said once, however often they try"
        assert await stage.metric("tproxy_tunnels_refused_total") == 2
        text = stage.log.read_text()
        for secret in (right, laptop.token):
            assert secret.hex() not in text
            assert repr(secret) not in text

    play(scenario)


def test_a_hello_may_come_before_its_session(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        laptop = Laptop(stage, "alice")
        body = stage.store.get(SESSIONS, "alice", NAMESPACE)
        stage.store.delete(SESSIONS, "alice", NAMESPACE)
        waiting = asyncio.gather(laptop.connect())
        await asyncio.sleep(0.3)
        stage.store.create(SESSIONS, {"metadata": {"name": "alice"}, "spec": body["spec"]}, NAMESPACE)
        assert (await waiting)[0].alive

    play(scenario)


def test_idle_memory(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        assert stage.daemon is not None
        assert rss(stage.daemon.pid) < 90 << 20

    play(scenario)


def test_the_api_server_may_come_later_and_go(namespaces: Namespaces, tmp_path: Path) -> None:
    """Not ready, with the reason, until it has been there once; then it may go, and what is known goes on."""

    async def scenario(stage: Stage) -> None:
        stage.start_daemon()
        await until_async(lambda: stage.get("/healthz"), lambda answer: answer == (200, "ok\n"), 15)
        status, reason = await stage.get("/readyz")
        assert status == 503
        assert reason == "waiting for the API server to list sessions, intercepts, pods, services\n"
        await stage.start_api()
        await stage.daemon_ready()
        async with intercepted(stage) as (pod, _):
            await stage.stop_api()
            assert (await stage.get("/readyz"))[0] == 200
            assert await who(pod) == "laptop"

    async def whole() -> None:
        made = Stage(namespaces, tmp_path)
        try:
            async with asyncio.timeout(60):
                await scenario(made)
        finally:
            await made.close()

    asyncio.run(whole())


def run_daemon(directory: Path, *around: str, http: int = 0) -> subprocess.CompletedProcess[str]:
    """Start it inside the command `around`, where it should end by itself."""
    kubeconfig = directory / "kubeconfig"
    cluster = {"name": "t", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "t", "context": {"cluster": "t", "user": "t"}}
    user = {"name": "t", "user": {"token": "t"}}
    kubeconfig.write_text(
        json.dumps({"current-context": "t", "contexts": [context], "clusters": [cluster], "users": [user]})
    )
    command = [sys.executable, "-m", "tproxy_node", "--node", "n1", "--kubeconfig", str(kubeconfig)]
    command += ["--grpc", "127.0.0.1:0", "--http", f"127.0.0.1:{http}"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "node-daemon")])
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*around, *command], capture_output=True, text=True, check=False, timeout=30, env=environ)


@pytest.mark.parametrize(
    ("around", "message"),
    [
        (["setpriv", "--reuid=65534", "--clear-groups"], "the node daemon must run as root"),
        (["setpriv", "--bounding-set=-sys_admin,-net_admin"], "lacks the capabilities NET_ADMIN, SYS_ADMIN"),
        (["unshare", "--user", "--map-root-user"], "cannot steer with sk_lookup: the kernel denies it"),
    ],
    ids=["not root", "capabilities", "user namespace"],
)
def test_what_is_missing_takes_one_sentence(tmp_path: Path, around: list[str], message: str) -> None:
    tmp_path.chmod(0o755)
    ended = run_daemon(tmp_path, *around)
    assert ended.returncode == 3
    error, empty, hint = ended.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert not empty
    assert hint.startswith("hint: ")


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_daemon(tmp_path, http=taken.getsockname()[1])
    assert ended.returncode == 3
    assert "error: cannot listen on 127.0.0.1 port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_cluster(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tproxy_node", "--node", "n1", "--kubeconfig", str(tmp_path / "none")]
    path = os.pathsep.join([str(ROOT), str(ROOT / "node-daemon")])
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=30, env={**os.environ, "PYTHONPATH": path}
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr


def test_metrics_say_what_happened(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, _):
            assert await who(pod) == "laptop"
            for line, value in {
                "tproxy_tunnels": 1,
                "tproxy_pods_steered": 1,
                'tproxy_connections_total{outcome="laptop"}': 1,
                'tproxy_kernel_lookups_total{verdict="steered"}': 1,
                'tproxy_reconcile_errors_total{op="attach"}': 0,
                "tproxy_full": 0,
            }.items():
                assert await stage.metric(line) == value, line
            assert await stage.metric('tproxy_tunnel_bytes_total{direction="sent"}') > 0
            port = f'namespace="{NAMESPACE}",pod="{pod.name}",port="{PORT}",protocol="TCP"'
            assert await stage.metric(f'tproxy_port_lookups_total{{{port},verdict="steered"}}') == 1
            assert await stage.metric(f'tproxy_port_lookups_total{{{port},verdict="own"}}') == 0
            assert await stage.metric(f'tproxy_port_app_connections_total{{{port},reason="probe"}}') == 0
        stage.leave()
        await until(lambda: stage.left())
        assert await stage.metric('tproxy_kernel_lookups_total{verdict="steered"}') == 1, "kept after detach"
        _, text = await stage.get("/metrics")
        assert "tproxy_port_lookups_total{" not in text, "a pod's own series go with its attachment"
        names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
        assert {name for name in names if not name.startswith("tproxy_")} <= {
            f"process_{what}"
            for what in (
                "virtual_memory_bytes",
                "resident_memory_bytes",
                "start_time_seconds",
                "cpu_seconds_total",
                "open_fds",
                "max_fds",
            )
        }
        assert "alice" not in text
        assert "web-1" not in text

    play(scenario)
