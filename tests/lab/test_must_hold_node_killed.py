"""`kill -9` of a node daemon under load: the next connections are the app's, nothing is left behind, and it returns."""

import asyncio
import os
import re
import signal
import subprocess
import time

from tests.lab.asking import Prober
from tests.lab.scene import PORT, Scene

WITHIN_SECONDS = 0.1


def socket_errors(output: str) -> dict[str, int]:
    """What wrk counted, by kind; empty without any."""
    found = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    return dict(zip(("connect", "read", "write", "timeout"), map(int, found.groups()), strict=True)) if found else {}


def test_a_killed_node_daemon_costs_only_what_is_in_flight(scene: Scene) -> None:
    [pod, _] = scene.pods()
    host = pod["addresses"][0]
    with scene.inside(pod) as inside:
        before = inside.state()
        with scene.intercepted():
            assert inside.state() != before
            load = ("wrk", "-t1", "-c64", "-d4s", f"http://{host}:{PORT}/")
            wrk = scene.lab.start("exec", "user", "--", *load, stdout=subprocess.PIPE)

            async def under_load() -> tuple[Prober, float]:
                async with Prober(scene.outside, host, 0.002) as prober:
                    await prober.answered("laptop", 200)
                    killed = time.monotonic()
                    os.kill(scene.daemon(pod["node"]), signal.SIGKILL)
                    await prober.answered("pod", 100)
                return prober, killed

            prober, killed = asyncio.run(under_load())
            scene.lab.wait(lambda: inside.state() == before, "a pod's network without a trace")
            output = wrk.communicate(timeout=30)[0]
            scene.wait_seen("laptop", 30)

        late = prober.since(killed + WITHIN_SECONDS)
        first = min(one.began for one in late if one.who == "pod")
        assert {one.who for one in late} == {"pod"}, "nobody is steered, nobody is refused"
        assert first < killed + WITHIN_SECONDS + 0.05
        failed = [one for one in prober.tries if one.who not in ("laptop", "pod")]
        assert all(one.began + one.seconds >= killed for one in failed), "nothing failed before"
        errors = socket_errors(output)
        assert errors.get("connect", 0) == errors.get("timeout", 0) == 0, output
        # All that are in flight, and those of them that come again while the kernel closes the dead one's sockets.
        assert errors.get("read", 0) + errors.get("write", 0) <= 128, output
        in_flight = [round((one.began - killed) * 1e3, 1) for one in failed]
        print(f"wrk: {errors}; probes failed: {in_flight} ms after the kill; {prober.count()}")
        scene.lab.wait(lambda: inside.state() == before, "a pod's network as before, after leave")
