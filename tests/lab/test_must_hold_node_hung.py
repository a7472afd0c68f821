"""A node daemon that hangs, or whose whole cgroup is killed: the app serves within 2 s."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.asking import Prober
from tests.lab.scene import Scene
from tproxy.lab import cgroup

WITHIN_SECONDS = 2.0


def app_again(scene: Scene, host: str, harm: Callable[[], object]) -> tuple[float, Prober]:
    """Do harm under load; after how many seconds connections that began then were all answered by the app."""

    async def under_load() -> tuple[float, Prober]:
        async with Prober(scene.outside, host, 0.01) as prober:
            await prober.answered("laptop", 50)
            harm()
            harmed = time.monotonic()
            # No more than these: half a second after it was killed another daemon may have the port already.
            await prober.answered("pod", 20)
        others = [one.began - harmed for one in prober.since(harmed) if one.who != "pod"]
        return max(others, default=0.0), prober

    return asyncio.run(under_load())


def test_a_stopped_node_daemon_and_its_return(scene: Scene) -> None:
    with scene.intercepted():
        [pod, _] = scene.pods()
        daemon = scene.daemon(pod["node"])
        try:
            seconds, _ = app_again(scene, pod["addresses"][0], lambda: os.kill(daemon, signal.SIGSTOP))
        finally:
            os.kill(daemon, signal.SIGCONT)
        print(f"SIGSTOP: the app has every connection after {seconds:.2f} s")
        assert seconds < WITHIN_SECONDS
        url = f"http://{pod['addresses'][0]}:8080/"
        began = time.monotonic()
        scene.lab.wait(lambda: scene.seen(url=url) == "laptop", "steering after SIGCONT", 10)
        print(f"SIGCONT: steered again after {time.monotonic() - began:.2f} s")
        assert scene.daemon(pod["node"]) == daemon, "nobody restarted it"
        assert scene.metric(pod["node"], 'tproxy_kernel_lookups_total{verdict="lease_expired"}') > 0


def test_a_killed_cgroup(scene: Scene) -> None:
    with scene.intercepted():
        [_, pod] = scene.pods()
        daemon = scene.daemon(pod["node"])
        of_pod = next(one["cgroup"] for one in scene.lab.pods("tproxy-system") if one["node"] == pod["node"])
        group = Path(of_pod)
        assert daemon in [one for path in (group, *group.glob("*")) for one in cgroup.processes(path)]
        seconds, prober = app_again(scene, pod["addresses"][0], lambda: (group / "cgroup.kill").write_text("1"))
        print(f"cgroup.kill: the app has every connection after {seconds:.3f} s; {prober.count()}")
        assert seconds < WITHIN_SECONDS
        scene.lab.wait(lambda: scene.daemon(pod["node"]) not in (None, daemon), "another daemon", 30)
        url = f"http://{pod['addresses'][0]}:8080/"
        scene.lab.wait(lambda: scene.seen(url=url) == "laptop", "steering by the new daemon", 30)
