"""The node daemon end to end: a real process, a real API over HTTP, real steering, real tunnels."""

import asyncio
import contextlib
import time

import pytest

from tests.kernel.answering import PORT, endpoint
from tests.kernel.backends import BACKENDS
from tests.kernel.hammer import Hammer
from tests.kernel.namespaces import OUTSIDE_IP4, POD_IP4, POD_IP6, until
from tests.kernel.node import NAMESPACE, Laptop, Pod, Stage
from tests.kernel.scenes import (
    READY,
    Play,
    answered_by,
    app,
    intercepted,
    local_app,
    open_connection,
    rss,
    who,
)
from tproxy.kube.port import INTERCEPTS


@pytest.fixture(params=BACKENDS)
def chosen(request: pytest.FixtureRequest) -> str:
    """Each backend in turn."""
    return str(request.param)


def test_there_and_back(play: Play) -> None:
    """Before a tunnel is there nothing changes; then all of that port does, and nothing else; then all is as before."""

    async def scenario(stage: Stage) -> None:
        pod, laptop = await stage.pod("web-1"), Laptop(stage, "alice")
        async with app(pod), app(pod, PORT + 1), local_app(laptop):
            before = pod.network.pod.state()
            laptop.intercept()
            await stage.reaches({"web-1": "NoTunnel"})
            assert await who(pod) == "app"

            began = time.monotonic()
            await laptop.connect()
            await stage.reaches(READY)
            assert time.monotonic() - began < 1
            for host in (POD_IP4, POD_IP6):
                assert await who(pod, host) == "laptop"
                assert await who(pod, host, PORT + 1) == "app"
            request = laptop.opened[0].request
            assert endpoint(request.destination.host, request.destination.port) == endpoint(POD_IP4, PORT)
            assert request.source is not None
            assert request.source.host == OUTSIDE_IP4
            assert request.pod == f"{NAMESPACE}/web-1"
            assert request.intercept == stage.store.get(INTERCEPTS, "web-1a2b", NAMESPACE)["metadata"]["uid"]

            stage.leave()
            await until(lambda: stage.left())
            assert await who(pod) == "app"

            def as_before() -> bool:
                return pod.network.pod.state() == before

            await until(as_before)

    play(scenario)


def test_leaving_fails_no_request(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, laptop), Hammer(pod.network.outside, POD_IP4, 4) as clients:
            for turn in range(3):
                await clients.more("laptop", 50)
                stage.leave()
                await until(lambda: stage.left())
                await clients.more("app", 50)
                stage.store.delete(INTERCEPTS, "web-1a2b", NAMESPACE)
                laptop.intercept()
                await stage.reaches(READY)
                assert not clients.count("error"), turn
        assert not clients.count("refused")

    play(scenario)


def test_open_connections_outlive_the_intercept(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, _):
            reader, writer = await open_connection(pod.network.outside)
            stage.leave()
            await until(lambda: stage.left())
            writer.write(b"still there?\n")
            assert await reader.readline() == b"still there?\n"
            assert await who(pod) == "app"
            writer.close()

    play(scenario)


def test_another_port_of_the_same_pod_stays(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, laptop), app(pod, PORT + 1):
            laptop.intercept("web-ffff", ports=[PORT + 1])
            await stage.reaches(READY, "web-ffff")
            assert await who(pod, port=PORT + 1) == "laptop"
            reader, writer = await open_connection(pod.network.outside)
            stage.leave("web-ffff")
            await until(lambda: stage.left("web-ffff"))
            assert await who(pod, port=PORT + 1) == "app"
            assert await who(pod) == "laptop"
            writer.write(b"untouched\n")
            assert await reader.readline() == b"untouched\n"
            writer.close()

    play(scenario)


def test_the_second_intercept_of_a_port(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, _):
            bob = Laptop(stage, "bob")
            async with local_app(bob, "bob"):
                await bob.connect()
                bob.intercept("web-ffff")
                await stage.reaches({"web-1": "PortTaken"}, "web-ffff")
                message = stage.status("web-ffff")["message"]
                assert message.startswith(f"port {PORT} is intercepted by web-1a2b of alice on alice-laptop since ")
                assert await who(pod) == "laptop"
                stage.leave()
                await stage.reaches(READY, "web-ffff")
                assert await who(pod) == "bob"

    play(scenario)


def test_pods_come_and_go(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (first, _):
            second = await stage.pod("web-2")
            async with app(second):
                await stage.reaches({"web-1": "Ready", "web-2": "Ready"})
                assert await who(second) == "laptop"
            first.delete()
            await stage.reaches({"web-2": "Ready"})
            assert await stage.metric("tproxy_pods_steered") == 1
            second.delete()
            await until(lambda: stage.left())

    play(scenario)


def test_a_pod_with_a_new_network(play: Play) -> None:
    """Same object, same UID, same address: another namespace, to be found and steered again."""

    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, _):
            old = pod.network.pod
            reader, writer = await open_connection(pod.network.outside)
            pod.move()
            async with app(pod):
                assert await who(pod) == "app", "nobody steers there yet"
                with pytest.raises(ConnectionResetError):
                    async with asyncio.timeout(10):
                        await reader.read()

                await answered_by(pod, "laptop")
                await stage.reaches(READY)
                assert not old.state()["links"]
            writer.close()

    play(scenario)


def test_a_pod_without_a_process_is_waited_for_and_holds_nobody_up(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        laptop = Laptop(stage, "alice")
        await laptop.connect()
        laptop.intercept()
        pod = Pod(stage, "web-1")
        stage.pods.append(pod)
        await stage.reaches({"web-1": "PodNotRunning"})
        pod.report("Running", address="10.77.9.9")
        await stage.reaches({"web-1": "NoProcess"})
        assert "no running process" in stage.status()["message"]
        await stage.pod("web-2")
        await stage.reaches({"web-1": "NoProcess", "web-2": "Ready"})
        pod.run()
        await stage.reaches({"web-1": "Ready", "web-2": "Ready"})

    play(scenario)


def test_a_stalled_reader_delays_nobody(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, _):
            assert stage.daemon is not None
            _, stalled = await open_connection(pod.network.outside)
            before = rss(stage.daemon.pid)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while True:  # it echoes, and we don't read
                        stalled.write(b"x" * 65536)
                        await stalled.drain()
            slowest = 0.0
            for _ in range(50):
                began = time.monotonic()
                assert await who(pod) == "laptop"
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 0.5
            assert rss(stage.daemon.pid) - before < 32 << 20
            stalled.transport.abort()

    play(scenario)


def test_a_local_app_that_is_not_there(play: Play) -> None:
    """Refused on the laptop is a reset for the client, at once."""

    async def scenario(stage: Stage) -> None:
        pod, laptop = await stage.pod("web-1"), Laptop(stage, "alice")
        async with app(pod):
            await laptop.connect()
            laptop.intercept()
            await stage.reaches(READY)
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                await who(pod)
            assert time.monotonic() - began < 0.5
            assert await stage.metric('tproxy_connections_reset_total{reason="refused"}') == 1

    play(scenario)


def test_failures_that_matter_to_nobody_any_more_cost_nothing(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        laptop = Laptop(stage, "alice")
        await laptop.connect()
        laptop.intercept()
        pod = Pod(stage, "web-1")
        stage.pods.append(pod)
        pod.report("Running", address="10.77.9.9")
        await stage.reaches({"web-1": "NoProcess"})
        stage.leave()
        await until(lambda: stage.left())
        before = await stage.metric("tproxy_reconcile_rounds_total")
        await asyncio.sleep(1)  # in which next to nothing must happen
        assert await stage.metric("tproxy_reconcile_rounds_total") - before <= 3

    play(scenario)
