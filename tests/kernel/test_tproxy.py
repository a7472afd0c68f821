"""What only the TPROXY backend does: rules that outlive the daemon, and the process that undoes them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.answering import PORT, ask, serving
from tests.kernel.backends import attachments_in
from tests.kernel.namespaces import POD_IP4, POD_IP6, Namespaces, PodNetwork, until
from tproxy.errors import TproxyError
from tproxy.netns.handle import Netns
from tproxy.steer.iptables import Tproxy
from tproxy.steer.port import Counters, SteeredPort, Steering

PORTS = [SteeredPort(PORT)]
HELPER = "tproxy.steer.iptables_helper"


@pytest.fixture
def backend() -> str:
    return "tproxy"


def helper_of(pid: int) -> int:
    """The process id of the helper of a daemon."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if HELPER in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    raise AssertionError("no helper")


@contextlib.contextmanager
def holder(path: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.kernel.holder", "tproxy", path, str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_nothing_is_left(network: PodNetwork, steering: Steering) -> None:
    """Nor is anything set up in the namespace that it does not need."""

    async def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def as_before() -> bool:
        steering.renew(60)  # which hears that the rules are gone
        return network.pod.state() == state and asyncio.run(descriptors()) == before

    state = network.pod.state()
    before = asyncio.run(descriptors())
    attachment = steering.attach(network.pod.netns, PORTS)
    with_rules = network.pod.state()
    changed = {key for key in state if state[key] != with_rules[key]}
    assert changed == {"listeners", "ipset list -name", "iptables-legacy-save", "ip6tables-legacy-save"}
    for family in ("ip", "ip6"):
        tables = network.pod.run("cat", f"/proc/thread-self/net/{family}_tables_names")
        assert tables == "mangle\n"
    for name in with_rules["ipset list -name"].split():
        assert name.startswith("tproxy-")
    attachment.close()
    deadline = time.monotonic() + 5
    while not as_before():
        assert time.monotonic() < deadline


def test_conntrack_stays_off(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        attachment = steering.attach(network.pod.netns, PORTS)
        async with serving("tproxy", attachment.listeners):
            found = await ask(network.outside, POD_IP4)
            assert found is not None
            assert network.pod.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count") == "0\n"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["iptables", "iptables-legacy"])
def test_a_meshs_proxy_comes_first(network: PodNetwork, steering: Steering, kind: str) -> None:
    """Where nat redirects what arrives, only calls over loopback are steered, the proxy's; and nothing is left."""

    async def scenario() -> None:
        pod = network.pod
        for tool in (kind, kind.replace("ip", "ip6", 1)):
            pod.run(tool, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15006")
        before = pod.state()
        with contextlib.closing(pod.listen("::", PORT)) as app, contextlib.closing(pod.listen("::", 15006)) as proxy:
            async with serving("app", [app]), serving("proxy", [proxy]):
                attachment = steering.attach(pod.netns, PORTS)
                assert attachment.outdated() == ""
                async with serving("tproxy", attachment.listeners):
                    for host in (POD_IP4, POD_IP6):
                        arrived, onward = await ask(network.outside, host), await ask(pod, host)
                        assert arrived is not None
                        assert onward is not None
                        assert (arrived.who, onward.who) == ("proxy", "tproxy")
                attachment.close()
                await until(lambda: bool(steering.renew(60)) or pod.state()["ipset list -name"] == "")
            after = pod.state()
        assert attachment.outdated() == ""  # it is closed
        assert {key for key in before if key != "listeners" and before[key] != after[key]} == set()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["iptables", "iptables-legacy"])
def test_a_mesh_that_comes_later_shows(network: PodNetwork, steering: Steering, kind: str) -> None:
    attachment = steering.attach(network.pod.netns, PORTS)
    assert attachment.outdated() == ""
    network.pod.run(kind, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15006")
    assert "mesh" in attachment.outdated()


def test_without_a_listener_new_connections_wait_for_the_end_of_the_lease(
    network: PodNetwork, steering: Steering
) -> None:
    """The price of rules: nobody can tell the kernel to go on to the app's listener if ours is missing."""

    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            for listener in attachment.listeners:
                listener.close()
            async with serving("app", [app]):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await ask(network.outside, POD_IP4)
                began = time.monotonic()
                steering.renew(1)
                found = await ask(network.outside, POD_IP6)
                assert found is not None
                assert found.who == "app"
                # The first packet was dropped, and the client repeats it after a second.
                assert time.monotonic() - began < 2

    asyncio.run(scenario())


def test_syn_cookies(network: PodNetwork, steering: Steering) -> None:
    """The packet that ends a handshake is no SYN, no rule matches it, and the app's listener never sent that cookie."""

    async def scenario() -> None:
        network.pod.run("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                for host in (POD_IP4, POD_IP6):
                    with pytest.raises(ConnectionResetError):
                        await ask(network.outside, host)

    asyncio.run(scenario())


def test_daemon_and_helper_killed_at_once(network: PodNetwork, steering: Steering) -> None:
    """As when a whole cgroup is killed: what is left lets connections through when the lease ends, and the next
    attachment sweeps it away."""

    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            async with serving("app", [app]):
                with holder(network.pod.path) as process:
                    for pid in (helper_of(process.pid), process.pid):
                        os.kill(pid, signal.SIGSTOP)
                    for pid in (helper_of(process.pid), process.pid):
                        os.kill(pid, signal.SIGKILL)
                    killed = time.monotonic()
                    process.wait(5)
                    found = await ask(network.outside, POD_IP4)
                    assert found is not None
                    assert found.who == "app"
                    assert time.monotonic() - killed < 3.5
                assert attachments_in(network.pod) == 1, "this is what is left"
                leftover = network.pod.state()["ipset list -name"]
                attachment = steering.attach(network.pod.netns, PORTS)
                async with serving("tproxy", attachment.listeners):
                    found = await ask(network.outside, POD_IP4)
                    assert found is not None
                    assert found.who == "tproxy"
                    assert attachments_in(network.pod) == 1
                    await until(lambda: not set(leftover.split()) & set(network.pod.run("ipset", "list", "-n").split()))

    asyncio.run(scenario())


def test_the_helper_dies_and_is_replaced(network: PodNetwork, steering: Steering) -> None:
    """Steering does not need it; and the new one undoes what the old one did."""

    async def scenario() -> None:
        def as_before() -> bool:
            return network.pod.state() == state

        def replaced() -> bool:
            steering.renew(60)
            with contextlib.suppress(AssertionError, FileNotFoundError):
                return helper_of(os.getpid()) != old
            return False

        state = network.pod.state()
        attachment = steering.attach(network.pod.netns, PORTS)
        async with serving("tproxy", attachment.listeners):
            old = helper_of(os.getpid())
            os.kill(old, signal.SIGKILL)
            found = await ask(network.outside, POD_IP4)
            assert found is not None
            assert found.who == "tproxy"
            await until(replaced)
        attachment.close()
        await until(as_before)

    asyncio.run(scenario())


def test_the_helper_dies_before_it_has_undone_anything(network: PodNetwork, steering: Steering) -> None:
    def as_before() -> bool:
        steering.renew(60)
        return network.pod.state() == state

    state = network.pod.state()
    attachment = steering.attach(network.pod.netns, PORTS)
    helper = helper_of(os.getpid())
    os.kill(helper, signal.SIGSTOP)
    attachment.close()
    assert network.pod.state() != state
    os.kill(helper, signal.SIGKILL)
    asyncio.run(until(as_before, 10))


def test_a_helper_that_cannot_be_started_ends_nothing(
    namespaces: Namespaces, steering: Steering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases are renewed, new attachments fail with a sentence, and all is well as soon as it can be."""
    one, other = namespaces.make_pod(), namespaces.make_pod()

    async def scenario() -> None:
        attachment = steering.attach(one.pod.netns, PORTS)
        async with serving("tproxy", attachment.listeners):
            with monkeypatch.context() as patch:
                patch.setattr(sys, "executable", "/nowhere/python")
                os.kill(helper_of(os.getpid()), signal.SIGKILL)
                with pytest.raises(TproxyError, match="process that keeps the rules"):
                    steering.attach(other.pod.netns, PORTS)
                steering.renew(60)
                found = await ask(one.outside, POD_IP4)
                assert found is not None
                assert found.who == "tproxy"
            await until(attached, 10)

    def attached() -> bool:
        with contextlib.suppress(TproxyError):
            return bool(steering.attach(other.pod.netns, PORTS))
        return False

    asyncio.run(scenario())


def test_a_helper_that_hangs_costs_one_attachment(namespaces: Namespaces, steering: Steering) -> None:
    one, other = namespaces.make_pod(), namespaces.make_pod()
    state = other.pod.state()
    steering.attach(one.pod.netns, PORTS)
    os.kill(helper_of(os.getpid()), signal.SIGSTOP)
    with pytest.raises(TproxyError, match="process that keeps the rules"):
        steering.attach(other.pod.netns, PORTS)
    assert attachments_in(one.pod) == 1
    asyncio.run(until(lambda: other.pod.state() == state))
    steering.attach(other.pod.netns, PORTS).close()


def test_rules_of_others_stay(network: PodNetwork, steering: Steering) -> None:
    network.pod.run("iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "--dport", "1", "-j", "ACCEPT")
    network.pod.run("ipset", "create", "mine", "hash:ip")
    state = network.pod.state()
    steering.attach(network.pod.netns, PORTS)
    steering.attach(network.pod.netns, PORTS)
    steering.close()
    assert network.pod.state() == state


def test_closing_waits_until_all_is_undone(namespaces: Namespaces) -> None:
    networks = [namespaces.make_pod() for _ in range(3)]
    states = [network.pod.state() for network in networks]
    with contextlib.closing(Tproxy()) as steering:
        for network in networks:
            steering.attach(network.pod.netns, PORTS)
    assert [network.pod.state() for network in networks] == states


def test_counters_survive_the_end_of_the_lease(network: PodNetwork, steering: Steering) -> None:
    async def scenario() -> None:
        with contextlib.closing(network.pod.listen("::", PORT)) as app:
            attachment = steering.attach(network.pod.netns, PORTS)
            async with serving("app", [app]), serving("tproxy", attachment.listeners):
                await ask(network.outside, POD_IP4)
                steering.renew(0)
                await ask(network.outside, POD_IP6)
                assert attachment.counters() == {PORT: Counters(steered=1, lease_expired=1)}
                attachment.set_ports([])
                attachment.set_ports(PORTS)
                steering.renew(60)
                await ask(network.outside, POD_IP6)
                assert attachment.counters() == {PORT: Counters(steered=2, lease_expired=1)}
                attachment.stop()
                assert attachment.counters() == {PORT: Counters(steered=2, lease_expired=1)}

    asyncio.run(scenario())


def test_the_daemon_itself_loads_nothing_of_iptables() -> None:
    script = "import sys, tproxy.steer.iptables; print([m for m in ('iptc', 'pyroute2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"[]\n"


def test_renewing_is_cheap(namespaces: Namespaces, steering: Steering) -> None:
    """Every half second, for every pod, on the loop that serves."""
    pods = [namespaces.make("pod") for _ in range(10)]
    for pod in pods:
        steering.attach(Netns(os.dup(pod.netns.fileno())), PORTS)
    began = time.process_time()
    for _ in range(100):
        steering.renew(60)
    assert (time.process_time() - began) / 100 / len(pods) < 100e-6
