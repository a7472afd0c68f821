"""gRPC health checks of an intercepted port, by gRPC's own client and server: the app answers, come what may.

Both backends.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kernel.answering import PORT
from tests.kernel.namespaces import POD_IP4, POD_IP6, Namespace
from tests.kernel.test_node_probes import Silent, watching
from tests.kernel.test_node_relay import Play, Scene, play
from tproxy.tasks import Tasks
from tproxy.tunnel.bridge import connect_bridge
from tproxy.tunnel.conn import Conn

__all__ = ["play"]

HEALTH = str(Path(__file__).with_name("grpc_health.py"))
KUBELET = "kube-probe/1.34"


@pytest.fixture(params=[POD_IP4, POD_IP6])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.asynccontextmanager
async def serving(name: str, port: int, place: Namespace | None = None) -> AsyncIterator[None]:
    inside = ("ip", "netns", "exec", place.name) if place is not None else ()
    process = await asyncio.create_subprocess_exec(
        *inside, sys.executable, HEALTH, "serve", name, str(port), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        await process.wait()


async def asked(place: Namespace, host: str, agent: str) -> str:
    """Who answers a gRPC client in `place`, which is not kept waiting."""
    process = await asyncio.create_subprocess_exec(
        *(
            "ip",
            "netns",
            "exec",
            place.name,
            sys.executable,
            HEALTH,
            "ask",
            f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}",
            agent,
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    who, seconds = out.decode().split()
    assert float(seconds) < 3
    return who


@contextlib.asynccontextmanager
async def local_server(scene: Scene) -> AsyncIterator[None]:
    """A gRPC server that the laptop's connections go to."""
    tasks, port = Tasks("laptop"), 50999

    def on_open(conn: Conn) -> None:
        connect_bridge(conn, [("127.0.0.1", port)], tasks)

    scene.laptop.on_open = on_open
    async with serving("laptop", port):
        yield
    await tasks.close()


def test_a_stopped_laptop_does_not_fail_the_check(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        laptop = Silent(scene)
        async with serving("app", PORT, scene.network.pod):
            watching(scene)
            assert await asked(scene.network.outside, host, KUBELET) == "app"
            assert await asked(scene.network.pod, host, KUBELET) == "app", "from inside the pod, as a mesh's agent asks"
        assert laptop.heard == []
        assert scene.relay.opened == {"app_probe": 2}

    play(scenario)


@pytest.mark.parametrize(
    ("agent", "from_node", "who"), [(KUBELET, True, "app"), ("web/1", True, "laptop"), (KUBELET, False, "laptop")]
)
def test_who_answers(play: Play, host: str, agent: str, from_node: bool, who: str) -> None:
    """Clients with a node's address are not kept waiting, and gRPC understands both sides."""

    async def scenario(scene: Scene) -> None:
        async with serving("app", PORT, scene.network.pod), local_server(scene):
            watching(scene, from_node)
            assert await asked(scene.network.outside, host, agent) == who

    play(scenario)


def test_without_the_app_the_check_fails(play: Play, host: str) -> None:
    async def scenario(scene: Scene) -> None:
        Silent(scene)
        watching(scene)
        assert await asked(scene.network.outside, host, KUBELET) == "UNAVAILABLE"

    play(scenario)
