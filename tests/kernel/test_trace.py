"""Tracing by bcc, with the real kernel: what it tells, what it leaves out, and that nothing stays behind."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from tproxy_node.child import Child

from tests.kernel.namespaces import OUTSIDE_IP4, POD_IP4, POD_IP6, Namespaces, PodNetwork, until
from tests.kernel.tracing import EVENTS, MEMORY, Trace, maps, programs, tracing

PORT = 8080


async def visit(network: PodNetwork, host: str, listener: socket.socket) -> str:
    """A connection from outside that both sides close; the client's address."""
    loop = asyncio.get_running_loop()
    client = await network.outside.connect(host, PORT)
    name = client.getsockname()
    server, _ = await loop.sock_accept(listener)
    client.close()
    with server:
        assert await loop.sock_recv(server, 1) == b""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def test_the_life_of_a_connection(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with tracing() as trace:
            await trace.watch(network.pod)
            for host, text in ((POD_IP4, POD_IP4), (POD_IP6, f"[{POD_IP6}]")):
                with network.pod.listen(host, PORT) as listener:
                    client = await visit(network, host, listener)
                local = f"{text}:{PORT}"
                closed = {"local": local, "remote": client, "to": "CLOSE", "namespace": "shop", "pod": "web-1"}
                await trace.until(lambda closed=closed: trace.of("state", **closed))  # type: ignore[misc]
                states = [one["to"] for one in trace.of("state", local=local, remote=client)]
                assert states == ["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "CLOSE"]
                assert 0 < trace.of("state", **closed)[0]["openMicroseconds"] < 30e6
            assert not trace.of("drop"), "the FIN that the kernel throws away when a socket is closed is none"
            await trace.settled()
            assert trace.summary["events"]["state"] == len(trace.of("state"))
            assert sum(trace.summary["openSlots"]) == 2

    asyncio.run(scenario())


def test_connections_that_the_pod_opens(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with tracing() as trace:
            await trace.watch(network.pod)
            with network.outside.listen(OUTSIDE_IP4, PORT):
                (await network.pod.connect(OUTSIDE_IP4, PORT)).close()
            await trace.until(lambda: trace.of("state", remote=f"{OUTSIDE_IP4}:{PORT}", to="ESTABLISHED"))
            (opened,) = trace.of("state", remote=f"{OUTSIDE_IP4}:{PORT}", to="ESTABLISHED")
            assert opened["from"] == "SYN_SENT"
            assert 0 <= opened["connectMicroseconds"] < 5e6
            await trace.settled()
            assert sum(trace.summary["connectSlots"]) == 1

    asyncio.run(scenario())


def test_nobody_listens(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with tracing() as trace:
            await trace.watch(network.pod)
            await trace.watch(network.outside, "outside")
            for host in (POD_IP4, POD_IP6):
                with contextlib.suppress(ConnectionRefusedError):
                    await network.outside.connect(host, PORT)
            await trace.until(lambda: len(trace.of("reset-received")) == 2)
            sent = trace.of("reset-sent", pod="web-1")
            assert [one["local"] for one in sent] == [f"{POD_IP4}:{PORT}", f"[{POD_IP6}]:{PORT}"]
            dropped = trace.of("drop", pod="web-1", protocol="TCP", direction="in")
            assert [one["local"] for one in dropped] == [f"{POD_IP4}:{PORT}", f"[{POD_IP6}]:{PORT}"]
            if dropped[0]["reason"]:  # since Linux 5.17
                assert {one["reason"] for one in dropped} == {"NO_SOCKET"}
            assert {one["pod"] for one in trace.of("reset-received")} == {"outside"}

    asyncio.run(scenario())


def test_accept_queue(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with tracing() as trace:
            await trace.watch(network.pod)
            with network.pod.listen(POD_IP4, PORT, backlog=0), contextlib.ExitStack() as clients:
                for _ in range(3):
                    client = network.outside.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
                    clients.enter_context(client)
                    client.setblocking(False)
                    client.connect_ex((POD_IP4, PORT))
                await trace.until(lambda: trace.of("overflow"))
            overflow = trace.of("overflow")[0]
            assert overflow["local"] == f"{POD_IP4}:{PORT}"
            assert (overflow["waiting"], overflow["room"]) == (1, 0)
            assert overflow["refused"] >= 1

    asyncio.run(scenario())


def test_one_port_of_one_pod(network: PodNetwork, namespaces: Namespaces) -> None:
    async def scenario() -> None:
        async with tracing(port=PORT) as trace:
            await trace.watch(network.pod)
            with network.outside.listen(OUTSIDE_IP4, PORT), network.pod.listen(POD_IP4, PORT + 1):
                (await network.outside.connect(POD_IP4, PORT + 1)).close()
                (await network.outside.connect(OUTSIDE_IP4, PORT)).close()
            with network.pod.listen(POD_IP4, PORT) as listener:
                client = await visit(network, POD_IP4, listener)
            await trace.until(lambda: trace.of("state", remote=client, to="CLOSE"))
            await trace.settled()
            assert {one["local"].rpartition(":")[2] for one in trace.seen} == {str(PORT)}
            assert {one["pod"] for one in trace.seen} == {"web-1"}
            assert trace.summary["events"]["state"] == len(trace.of("state"))
            trace.child.tell({"remove": [network.pod.netns.id.inode]})
            await trace.watched(0)
            await trace.settled()
            before = trace.summary["events"]
            with network.pod.listen(POD_IP4, PORT) as listener:
                await visit(network, POD_IP4, listener)
            await trace.settled()
            assert trace.summary["events"] == before

    asyncio.run(scenario())


async def visits(network: PodNetwork, count: int) -> None:
    with network.pod.listen(POD_IP4, PORT) as listener:
        for _ in range(count):
            await visit(network, POD_IP4, listener)


def balanced(trace: Trace) -> bool:
    """Whether each event that was counted was seen, or counted as not to be seen."""
    summary = trace.summary
    return sum(summary["events"].values()) == len(trace.seen) + summary["omitted"] + summary["lost"]


def test_no_more_than_wanted_and_the_rest_counted(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with tracing(rate=10) as trace:
            await trace.watch(network.pod)
            await visits(network, 30)
            with contextlib.suppress(ConnectionRefusedError):
                await network.outside.connect(POD_IP4, PORT)
            await trace.settled()
            assert trace.summary["omitted"] >= 5 * 30 - 10 * 5
            assert balanced(trace)
            assert trace.of("reset-sent"), "what is rare is not crowded out"

    asyncio.run(scenario())


def test_what_nobody_reads_is_lost_and_counted(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with tracing(rate=1_000_000) as trace:
            await trace.watch(network.pod)
            await trace.settled()
            os.kill(trace.child.process.pid, signal.SIGSTOP)
            try:
                await visits(network, 700)
            finally:
                os.kill(trace.child.process.pid, signal.SIGCONT)
            await trace.settled()
            assert trace.summary["lost"] > 100
            assert len(trace.seen) > 1000
            assert balanced(trace)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["closed", "SIGTERM", "SIGKILL", "closed while it hangs"])
def test_nothing_stays(network: PodNetwork, how: str) -> None:
    async def scenario() -> None:
        before = programs(), maps()
        async with tracing() as trace:
            await trace.watch(network.pod)
            await trace.settled()
            assert len(programs() - before[0]) == 6
            assert len(maps() - before[1]) == 4
            process = trace.child.process
            if how.startswith("SIG"):
                process.send_signal(signal.Signals[how])
                process.wait(10)
            elif "hangs" in how:
                process.send_signal(signal.SIGSTOP)
        # The kernel takes apart what nobody holds any more a moment later.
        await until(lambda: not programs() - before[0] and not maps() - before[1])
        assert process.poll() is not None

    asyncio.run(scenario())


DAEMON = """
import asyncio, json, sys
from tproxy_node.child import Child
async def main():
    child = await Child.start("tproxy_node.trace")
    child.tell({"events": %r, "port": 0, "rate": 1000, "memory": %r})
    print(child.process.pid, json.loads(await child.line()), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("hangs", [False, True])
def test_nothing_stays_when_the_daemon_is_killed(hangs: bool) -> None:
    before = programs(), maps()
    command = [sys.executable, "-c", DAEMON % (EVENTS, MEMORY)]
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as daemon:
        try:
            assert daemon.stdout is not None
            pid, _, said = daemon.stdout.readline().partition(" ")
            assert said == "{'ready': True}\n"
            if hangs:
                os.kill(int(pid), signal.SIGSTOP)
        finally:
            daemon.kill()
    asyncio.run(until(lambda: not os.path.exists(f"/proc/{pid}") and not programs() - before[0]))
    asyncio.run(until(lambda: not maps() - before[1]))


def test_memory_that_it_may_not_have() -> None:
    async def scenario() -> None:
        child = await Child.start("tproxy_node.trace")
        try:
            child.tell({"events": ["state"], "port": 0, "rate": 1, "memory": 8 << 20})
            line = await child.line()
            assert not line or "error" in json.loads(line)
            assert child.process.wait(10) != 0, "it fails alone"
        finally:
            await child.close()

    asyncio.run(scenario())


def test_how_much_memory_it_has(network: PodNetwork) -> None:
    async def scenario() -> None:
        async with tracing() as trace:
            await trace.watch(network.pod)
            await visits(network, 100)
            await trace.settled()
            assert 70 << 20 < trace.summary["memory"] < 210 << 20

    asyncio.run(scenario())


OLDER = """
import os
from tproxy.trace import headers, tracepoints
from tproxy.trace.btf import Btf
from tproxy.trace.program import HOOKS, Program, definitions
from tproxy_node.trace import confined
confined.see_tracepoints()
older = {"FIELD_RESET_SENT_REASON", "FIELD_DROP_REASON", "FIELD_DROP_RECEIVER"}
defined = {name: at for name, at in definitions(Btf(), tracepoints.look_up).items() if name not in older}
Program(headers.find(os.uname().release), defined, {kind for *_, kind in HOOKS}, 80, 1000, print).poll(1)
print("traces")
"""


def test_a_kernel_that_gives_no_reasons() -> None:
    """Fields that came with Linux 5.17, 6.10 and 6.11: the program does without."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", OLDER],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout == "traces\n", done.stderr
