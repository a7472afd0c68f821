"""A laptop that sleeps and wakes up elsewhere, or changes networks awake: what it had is back within seconds.

Its connections are dead then and nobody says so: what is sent to its former address is dropped.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.namespaces import run
from tests.lab.connected import Connected
from tests.lab.laptop import local_app
from tproxy.kube.port import NAMESPACES
from tproxy.lab.addresses import LAPTOP, ROUTER_TO_LAPTOP

NAMESPACE = "moving"
ELSEWHERE = ("10.99.1.77", "fd99:1::77")
HELLO = str(Path(__file__).with_name("hello.py"))

BACK_SECONDS = 6.0
"""Until everything is as before; it is half a second on a machine that does little else."""

NOTICED_SECONDS = 15.0
"""The same where nothing but six seconds of silence says so."""


@pytest.fixture(scope="module")
def place(lab: Any) -> Iterator[Connected]:
    lab.client.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
    lab.apply(lab.server("web") + "---" + lab.server("far"), NAMESPACE)
    asking = ("curl", "-s", "http://127.0.0.1:3000/")
    app = local_app(lab, [HELLO, "--port", "3000"], lambda: "laptop" in lab.exec("laptop", *asking, check=False).stdout)
    one = Connected(lab, NAMESPACE)
    yield one
    app.terminate()
    app.wait(10)
    one.close()
    lab.client.delete(NAMESPACES, NAMESPACE)


@pytest.fixture
def laptop(place: Connected, request: pytest.FixtureRequest) -> Iterator[Connected]:
    """Connected, and with an intercept of `web`."""
    try:
        place.intercept("--transport", request.param)
        place.connect()
        assert works(place)
        yield place
    finally:
        place.tproxy("quit", check=False)
        place.lab.wait(place.as_before, "nothing left")
        place.wait_seen("pod")


def works(laptop: Connected) -> bool:
    """Whether it reaches the cluster, and the cluster it."""
    return laptop.get("http://far/", "--max-time", "2").startswith("far-") and laptop.seen() == "laptop"


@contextlib.contextmanager
def elsewhere(laptop: Connected) -> Iterator[None]:
    """Move the laptop to other addresses; as before afterwards."""
    here, router = laptop.here.name, laptop.lab.layout.netns("router")
    moves = list(zip(("-4", "-6"), LAPTOP, ELSEWHERE, ROUTER_TO_LAPTOP, (24, 64), (32, 128), strict=True))

    def take(family: str, address: str, gone: str, gateway: str, length: int) -> None:
        more = ["nodad"] if family == "-6" else []
        run("ip", "-n", here, family, "address", "delete", f"{gone}/{length}", "dev", "eth0")
        run("ip", "-n", here, family, "address", "add", f"{address}/{length}", "dev", "eth0", *more)
        run("ip", "-n", here, family, "route", "replace", "default", "via", gateway)

    try:
        for family, before, after, gateway, length, whole in moves:
            run("ip", "-n", router, family, "route", "add", "blackhole", f"{before}/{whole}")
            take(family, after, before, gateway, length)
        yield
    finally:
        for family, before, after, gateway, length, whole in moves:
            run("ip", "-n", router, family, "route", "delete", "blackhole", f"{before}/{whole}")
            take(family, before, after, gateway, length)


both_transports = pytest.mark.parametrize("laptop", ["port-forward", "direct"], indirect=True)


@both_transports
def test_asleep_and_awake_elsewhere(laptop: Connected) -> None:
    processes = [laptop.pid(), *laptop.helpers()]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        laptop.wait_seen("pod", 15)
        with elsewhere(laptop):
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
            began = time.monotonic()
            laptop.lab.wait(lambda: works(laptop), "all as before", 60)
            took = time.monotonic() - began
            print(f"\nback {took:.1f} s after it woke up")
            assert took < BACK_SECONDS
            assert laptop.helpers() == processes[1:], "the same connection"
    finally:
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    laptop.lab.wait(lambda: works(laptop), "all as before, back home", 60)


@both_transports
def test_awake_and_elsewhere(laptop: Connected) -> None:
    with elsewhere(laptop):
        began = time.monotonic()
        # What is open still seems to work until it has been silent for long enough.
        laptop.lab.wait(lambda: works(laptop), "all as before", 60)
        took = time.monotonic() - began
        print(f"\nback {took:.1f} s after the network changed")
        assert took < NOTICED_SECONDS
    laptop.lab.wait(lambda: works(laptop), "all as before, back home", 60)
