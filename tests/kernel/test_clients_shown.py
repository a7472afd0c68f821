"""What the relay takes to the app looks to the app as if its client had come by itself: address and port."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.answering import PORT, ask, endpoint
from tests.kernel.namespaces import OUTSIDE_IP4, OUTSIDE_IP6, POD_IP4, POD_IP6, PodNetwork, run, until
from tests.kernel.node import cgroup_mount
from tests.kernel.seeing import app_in
from tests.kernel.test_death import holder
from tests.kernel.test_node_relay import Play, Scene, play
from tproxy.netns.pod_cgroups import find_cgroups

__all__ = ["play"]

UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A pod's, with a container below it."""
    top = cgroup_mount() / f"tproxy-t-{os.getpid():x}-seen"
    pod = top / "kubepods" / "burstable" / f"pod{UID}"
    container = pod / ("ab" * 32)
    container.mkdir(parents=True)
    try:
        yield pod
    finally:
        for directory in (container, *[pod, *pod.parents][:4]):
            directory.rmdir()


def programs(cgroup: Path) -> str:
    return run("bpftool", "cgroup", "show", str(cgroup))


def test_a_pods_cgroup_is_found_by_its_uid(cgroup: Path) -> None:
    assert find_cgroups([UID, "", "11111111-4b5a-6978-8796-a5b4c3d2e1f0"]) == {UID: cgroup}
    assert find_cgroups([UID], [cgroup / "nowhere"]) == {}


@pytest.mark.parametrize("any_address", [True, False])
@pytest.mark.parametrize(
    ("host", "source"),
    [
        (POD_IP4, OUTSIDE_IP4),
        (POD_IP6, OUTSIDE_IP6),
        (POD_IP4, POD_IP4),
        (POD_IP6, POD_IP6),
        ("127.0.0.1", "127.0.0.1"),
        (POD_IP4, "127.0.0.6"),
        ("::1", "::1"),
    ],
)
def test_the_app_sees_its_client(play: Play, cgroup: Path, host: str, source: str, any_address: bool) -> None:
    """Whether it listens on one address or, as most do, with one IPv6 socket on all of them."""

    async def scenario(scene: Scene) -> None:
        scene.stream = None
        assert scene.attachment.shows_clients
        place = scene.network.outside if source in (OUTSIDE_IP4, OUTSIDE_IP6) else scene.network.pod
        async with app_in(scene.network.pod, cgroup / ("ab" * 32), ["::" if any_address else host]):
            found = await ask(place, host, source=(source, 40404))
        mapped = "::ffff:" if any_address and ":" not in host else ""
        assert found is not None
        assert found.who == "app"
        assert found.source == endpoint(mapped + source, 40404)
        assert found.destination == endpoint(mapped + host, PORT)
        # More than once where the port's last connection is in TIME_WAIT: the kernel looks anew for each SYN then.
        assert scene.relay.verdicts()["own"] >= 1

    play(scenario, cgroup=cgroup)


@pytest.mark.parametrize(("host", "loopback"), [(POD_IP4, "127.0.0.1"), (POD_IP6, "::1")])
def test_a_port_on_loopback_only_stays_so(play: Play, cgroup: Path, host: str, loopback: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.stream = None
        async with app_in(scene.network.pod, cgroup, [loopback]):
            with pytest.raises(ConnectionResetError):
                await scene.who(host)
            assert (await ask(scene.network.pod, loopback)) is not None

    play(scenario, cgroup=cgroup)


def test_connections_of_others_look_as_they_are(play: Play, cgroup: Path) -> None:
    """Also to a process whose connections come from ports that ours have had."""

    async def scenario(scene: Scene) -> None:
        scene.stream = None
        async with app_in(scene.network.pod, cgroup, [POD_IP4], PORT + 1), app_in(scene.network.pod, cgroup, ["::"]):
            for _ in range(50):
                assert await scene.who() == "app"
            for _ in range(50):
                found = await ask(scene.network.pod, POD_IP4, PORT + 1)
                assert found is not None
                assert found.source.startswith(f"{POD_IP4}|")

    play(scenario, cgroup=cgroup)


def test_without_a_cgroup_the_app_sees_the_pod(play: Play, cgroup: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.stream = None
        assert not scene.attachment.shows_clients
        async with app_in(scene.network.pod, cgroup, ["0.0.0.0"]):
            found = await ask(scene.network.outside, POD_IP4)
            assert found is not None
            assert found.source.startswith(f"{POD_IP4}|")

    play(scenario)


def test_nothing_is_left_of_a_killed_holder(network: PodNetwork, cgroup: Path, backend: str) -> None:
    before = network.pod.state(), programs(cgroup)
    with holder(backend, network.pod.path, str(cgroup)) as process:
        assert "getpeername" in programs(cgroup)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)

        def as_before() -> bool:
            return (network.pod.state(), programs(cgroup)) == before

        asyncio.run(until(as_before))


def test_what_was_connected_keeps_its_client_after_detach(play: Play, cgroup: Path) -> None:
    """An app may ask who is there as late as it likes."""

    async def scenario(scene: Scene) -> None:
        scene.stream = None
        async with app_in(scene.network.pod, cgroup, ["::"]):
            sock = await scene.network.outside.connect(POD_IP4, PORT)
            await until(lambda: scene.relay.active["app"] == 1)
            scene.pod.stop()
            await scene.pod.finish()
            assert "getpeername" in programs(cgroup)
            sock.close()
            await scene.relay.idle()
            assert "getpeername" not in programs(cgroup)

    play(scenario, cgroup=cgroup)
