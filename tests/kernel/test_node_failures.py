"""What clients see when the daemon or the laptop dies, hangs, stops or leaves."""

import asyncio
import signal
import time

import pytest

from tests.kernel.backends import BACKENDS
from tests.kernel.hammer import Hammer
from tests.kernel.namespaces import POD_IP4, until
from tests.kernel.node import NAMESPACE, Laptop, Stage
from tests.kernel.scenes import (
    READY,
    Play,
    answered_by,
    app,
    freezer,
    intercepted,
    local_app,
    open_connection,
    who,
)
from tproxy.kube.port import SESSIONS


@pytest.fixture(params=BACKENDS)
def chosen(request: pytest.FixtureRequest) -> str:
    """Each backend in turn."""
    return str(request.param)


def test_death_of_the_daemon(play: Play) -> None:
    """kill -9: the next connections are the app's, and the pod's namespace looks as if nothing had been."""

    async def scenario(stage: Stage) -> None:
        pod = await stage.pod("web-1")
        before = pod.network.pod.state()
        laptop = Laptop(stage, "alice")
        async with app(pod), local_app(laptop):
            await laptop.connect()
            laptop.intercept()
            await stage.reaches(READY)
            async with Hammer(pod.network.outside, POD_IP4, 4) as clients:
                await clients.more("laptop", 50)
                stage.signal(signal.SIGKILL)
                killed = time.monotonic()
                while time.monotonic() < killed + 0.2:
                    await clients.more("app", 10)
            late = [result for result in clients.results if result.began > killed + 0.1]
            assert late
            assert {result.who for result in late} == {"app"}
            assert await laptop.endpoint.wait_closed()  # type: ignore[union-attr]

        def as_before() -> bool:
            return pod.network.pod.state() == before

        await until(as_before)

    play(scenario)


def test_a_stopped_daemon_and_its_return(play: Play, chosen: str) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, _):
            stage.signal(signal.SIGSTOP)
            stopped = time.monotonic()
            await answered_by(pod, "app")
            # A lease of 1.5 s; ipset counts whole seconds. The rest is for clients to give up one that hangs.
            assert time.monotonic() - stopped < (2 if chosen == "sk_lookup" else 2.5)
            stage.signal(signal.SIGCONT)
            await answered_by(pod, "laptop")
            assert await stage.metric('tproxy_kernel_lookups_total{verdict="lease_expired"}') > 0

    play(scenario)


def test_a_daemon_takes_over_from_a_dead_one(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, laptop):
            stage.signal(signal.SIGKILL)
            await stage.ended(5)
            assert stage.states() == READY, "the dead cannot take their word back"
            stage.start_daemon()
            await stage.reaches({"web-1": "NoTunnel"}, seconds=15)
            assert await who(pod) == "app"
            await laptop.connect()
            await stage.reaches(READY)
            assert await who(pod) == "laptop"

    play(scenario)


def test_an_orderly_stop(play: Play) -> None:
    """SIGTERM: no request fails, the statuses say it, and it is quick."""

    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, _):
            async with Hammer(pod.network.outside, POD_IP4, 4) as clients:
                await clients.more("laptop", 50)
                stage.signal(signal.SIGTERM)
                began = time.monotonic()
                assert await stage.ended(5) == 0
                assert time.monotonic() - began < 4.5
                await clients.more("app", 50)
            assert not clients.count("error")
            assert not clients.count("refused")
            assert stage.states() == {"web-1": "DaemonStopped"}
        assert not [line for line in stage.logged() if line["level"] == "error"]

    play(scenario)


def test_quitting_gives_the_port_back_at_once(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, laptop):
            reader, writer = await open_connection(pod.network.outside)
            assert laptop.endpoint is not None
            laptop.endpoint.close("quit")
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert await who(pod) == "app"
            assert time.monotonic() - began < 0.5
            await stage.reaches({"web-1": "NoTunnel"})
            writer.close()

    play(scenario)


def test_a_deleted_session_ends_everything(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async with intercepted(stage) as (pod, laptop):
            stage.store.delete(SESSIONS, "alice", NAMESPACE)
            assert laptop.endpoint is not None
            async with asyncio.timeout(2):
                await laptop.endpoint.wait_closed()
            await stage.reaches({"web-1": "NoSession"})
            assert await who(pod) == "app"

    play(scenario)


def test_a_silent_laptop(play: Play) -> None:
    """No FIN, no RST, nothing: as when a laptop falls asleep."""

    async def scenario(stage: Stage) -> None:
        pod, laptop = await stage.pod("web-1"), Laptop(stage, "alice")
        async with app(pod), local_app(laptop), freezer(stage.grpc) as (port, thawed):
            await laptop.connect(port)
            laptop.intercept()
            await stage.reaches(READY)
            reader, writer = await open_connection(pod.network.outside)
            thawed.clear()
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(10):
                    await reader.read()
            assert await who(pod) == "app"
            assert time.monotonic() - began < 7
            await stage.reaches({"web-1": "NoTunnel"})
            writer.close()
            # The laptop wakes up and comes again while its old stream may still seem to be there.
            thawed.set()
            await laptop.connect()
            await stage.reaches(READY)
            assert await who(pod) == "laptop"

    play(scenario)
