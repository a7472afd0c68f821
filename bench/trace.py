"""What tracing costs: requests to an app in a pod while every event of its namespace is traced, and while not.

The load is wrk's, over connections that are kept and over one connection for each request. Each round measures both
ways, one after the other, and the ratio is that of the round; the median is printed. Events are read and thrown away,
as a node daemon reads them that passes them on. CPU is what a request takes of client, app, tracing process and reader
together: that ratio holds on a machine that is busy with other things as well. Run as root:
`.venv/bin/python bench/trace.py`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tproxy_node.child import Child
from tproxy_node.debug.tracing import MEMORY, MODULE

from tests.kernel.answering import PORT
from tests.kernel.namespaces import POD_IP4, Namespaces, PodNetwork
from tproxy.model.tracing import EVENTS, RATE

HERE = Path(__file__).parent
LOADS = {"connections kept": (), "a connection each": ("-H", "Connection: close")}


async def wrk(network: PodNetwork, seconds: float, options: tuple[str, ...]) -> float:
    """Requests per second."""
    url = f"http://{POD_IP4}:{PORT}/"
    out = await asyncio.to_thread(
        network.outside.run, "wrk", "-t1", "-c64", f"-d{seconds:g}s", "--timeout", "10s", *options, url
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if not rate or "Non-2xx" in out:
        raise SystemExit(out)
    return float(rate[1])


class Traced:
    """A trace of the pod's namespace, read as it comes."""

    def __init__(self, child: Child) -> None:
        self.shown = 0
        self.pid = child.process.pid
        self.summary: dict[str, Any] = {}
        self._child = child

    async def read(self) -> None:
        while line := await self._child.line():
            found = json.loads(line)
            self.summary = found.get("summary", self.summary)
            self.shown += "event" in found


@contextlib.asynccontextmanager
async def tracing(network: PodNetwork) -> AsyncIterator[Traced]:
    child = await Child.start(MODULE)
    try:
        child.tell({"events": list(EVENTS), "port": 0, "rate": RATE, "memory": MEMORY})
        assert json.loads(await child.line()) == {"ready": True}
        child.tell(
            {"add": [{"inode": network.pod.netns.id.inode, "namespace": "shop", "pod": "web-1"}]},
            [network.pod.netns.fileno()],
        )
        while json.loads(await child.line()) != {"watching": 1}:
            pass
        traced = Traced(child)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(traced.read())
            yield traced
            await asyncio.sleep(1)  # for the last summary
            reading.cancel()
    finally:
        await child.close()


def used(*pids: int) -> float:
    """Seconds of CPU that these processes have had, this one, and those that it has waited for."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    mine, waited = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK") + sum(one.ru_utime + one.ru_stime for one in (mine, waited))


async def loaded(network: PodNetwork, seconds: float, options: tuple[str, ...], *pids: int) -> tuple[float, float]:
    """Requests per second, and CPU of each in microseconds."""
    before = used(*pids)
    rate = await wrk(network, seconds, options)
    return rate, (used(*pids) - before) / (rate * seconds) * 1e6


async def measure(network: PodNetwork, server: int, rounds: int, seconds: float) -> None:
    """Print the table."""
    heads = ("not traced", "traced", "cost", "CPU", "traced", "cost", "events", "shown", "omitted", "lost")
    print(" " * 20 + "".join(f"{head:>11}" for head in heads))
    for title, options in LOADS.items():
        figures = []
        for _ in range(rounds):
            rate, cpu = await loaded(network, seconds, options, server)
            async with tracing(network) as traced:
                traced_rate, traced_cpu = await loaded(network, seconds, options, server, traced.pid)
            counted = (sum(traced.summary["events"].values()), traced.shown)
            lost = (traced.summary["omitted"], traced.summary["lost"])
            costs = (1 - traced_rate / rate, traced_cpu / cpu - 1)
            figures.append((rate, traced_rate, costs[0], cpu, traced_cpu, costs[1], *counted, *lost))
            print(title, figures[-1], file=sys.stderr)
        forms = ("{:9,.0f}/s", "{:9,.0f}/s", "{:11.1%}", "{:9.1f}µs", "{:9.1f}µs", "{:11.1%}", *["{:11,.0f}"] * 4)
        medians = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{title:20}" + "".join(form.format(one) for form, one in zip(forms, medians, strict=True)))


def main() -> None:
    """Set the stage, and take it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    namespaces = Namespaces()
    try:
        network = namespaces.make_pod()
        network.outside.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1")
        command = (
            "ip",
            "netns",
            "exec",
            network.pod.name,
            sys.executable,
            str(HERE / "server.py"),
            "--port",
            str(PORT),
        )
        with subprocess.Popen(command) as server:
            try:
                network.outside.run(
                    "curl", "-s", "--retry", "50", "--retry-connrefused", "--retry-delay", "1",
                    f"http://{POD_IP4}:{PORT}/",
                )  # fmt: skip
                asyncio.run(measure(network, server.pid, options.rounds, options.seconds))
            finally:
                server.kill()
    finally:
        namespaces.close()


if __name__ == "__main__":
    main()
