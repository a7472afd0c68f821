"""The root helper of `tproxy connect`: what it installs, and that nothing of it is left, however it ends."""

import errno
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tproxy_cli.connect.helper import IN_USE

from tests.kernel.connecting import Helper, descriptors, helper, wait
from tests.kernel.namespaces import OUTSIDE_IP4, OUTSIDE_IP6, PodNetwork

SERVICE4, SERVICE6 = "10.96.0.7", "fd96::7"


@pytest.fixture
def laptop(network: PodNetwork) -> PodNetwork:
    """The pod of the pair stands for a laptop, with default routes."""
    network.pod.run("ip", "route", "add", "default", "via", OUTSIDE_IP4)
    network.pod.run("ip", "-6", "route", "add", "default", "via", OUTSIDE_IP6)
    # The tables are there for good once anybody has looked; it is the rules in them that count.
    network.pod.run("iptables-legacy-save", "-t", "mangle")
    network.pod.run("ip6tables-legacy-save", "-t", "mangle")
    return network


def caught(one: Helper, address: str, port: int = 80) -> str:
    """Where a connection to `address` arrives, as our listener sees it; empty if it does not."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = one.sockets["tcp6" if ":" in address else "tcp4"]
    with one.place.netns.socket(family, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        client.connect_ex((address, port))
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            one.let_in()
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                time.sleep(0.01)
                continue
            with accepted:
                host, number = accepted.getsockname()[:2]
                return f"{host} {number}"
    return ""


def test_only_what_is_known_is_caught(laptop: PodNetwork) -> None:
    before = laptop.pod.state()
    with helper(laptop.pod) as one:
        one.begin()
        assert set(one.sockets) == {"tcp4", "udp4", "tcp6", "udp6", "queue"}
        one.say(change={"add": [SERVICE4, SERVICE6, "10.97.0.0/16"], "delete": []})
        one.renew()
        wait(lambda: caught(one, SERVICE4) == f"{SERVICE4} 80")
        assert caught(one, SERVICE6) == f"{SERVICE6} 80"
        assert caught(one, "10.97.3.4", 5432) == "10.97.3.4 5432"
        assert caught(one, "10.96.0.8") == ""
        one.say(change={"add": [], "delete": [SERVICE4, "10.0.0.1"]})
        one.renew()
        wait(lambda: caught(one, SERVICE6) != "" and caught(one, SERVICE4) == "")
    wait(lambda: laptop.pod.state() == before)


@pytest.mark.parametrize(
    ("address", "verdict", "number"),
    [
        (SERVICE4, "refused", errno.ECONNREFUSED),
        (SERVICE4, "unreachable", errno.ECONNREFUSED),
        (SERVICE6, "refused", errno.ECONNREFUSED),
        (SERVICE6, "unreachable", errno.EHOSTUNREACH),
        (SERVICE6, "forbidden", errno.EACCES),
    ],
)
def test_a_verdict_is_what_the_program_sees(laptop: PodNetwork, address: str, verdict: str, number: int) -> None:
    with helper(laptop.pod) as one:
        one.begin()
        one.say(change={"add": [SERVICE4, SERVICE6], "delete": []})
        one.renew()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with one.place.netns.socket(family, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            assert client.connect_ex((address, 80)) == errno.EINPROGRESS
            wait(lambda: one.let_in(verdict))
            wait(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == number)


def test_udp_comes_with_its_destination_and_is_answered_from_there(laptop: PodNetwork) -> None:
    with helper(laptop.pod) as one:
        one.begin()
        one.say(change={"add": [SERVICE4, SERVICE6], "delete": []})
        one.renew()
        for address, family, listener in ((SERVICE4, socket.AF_INET, "udp4"), (SERVICE6, socket.AF_INET6, "udp6")):
            with one.place.netns.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(3)
                client.connect((address, 5353))
                client.send(b"ping")
                wait(lambda listener=listener: _readable(one.sockets[listener]))
                data, ancillary, _, peer = one.sockets[listener].recvmsg(100, 200)
                assert (data, len(ancillary)) == (b"ping", 1)
                assert socket.inet_pton(family, address) in ancillary[0][2]
                one.say(family=int(family), kind=int(socket.SOCK_DGRAM), count=2)
                _, descriptors = one.hear()
                made = [socket.socket(fileno=number) for number in descriptors]
                assert len(made) == 2
                made[0].bind((address, 5353))
                made[0].connect(peer)
                made[0].send(b"pong")
                assert client.recv(100) == b"pong"
                for sock in made:
                    sock.close()


def _readable(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


def test_dns_is_caught_at_resolvers_alone_even_at_home(laptop: PodNetwork) -> None:
    with helper(laptop.pod) as one:
        one.begin()
        one.say(dns={"servers": [OUTSIDE_IP4, "127.0.0.53", OUTSIDE_IP6]})
        one.renew()
        wait(lambda: caught(one, OUTSIDE_IP4, 53) == f"{OUTSIDE_IP4} 53")
        assert caught(one, "127.0.0.53", 53) == "127.0.0.53 53"
        assert caught(one, OUTSIDE_IP6, 53) == f"{OUTSIDE_IP6} 53"
        one.renew()
        assert caught(one, OUTSIDE_IP4, 80) == ""
        assert caught(one, "127.0.0.1", 53) == ""
        one.say(family=int(socket.AF_INET), kind=int(socket.SOCK_STREAM), count=1)
        _, (own,) = one.hear()
        one.renew()
        with socket.socket(fileno=own) as sock:
            sock.connect_ex((OUTSIDE_IP4, 53))
            time.sleep(0.1)
            with pytest.raises(BlockingIOError):
                one.sockets["tcp4"].accept()


def test_a_daemon_that_hangs_catches_nothing(laptop: PodNetwork) -> None:
    with helper(laptop.pod) as one:
        one.begin()
        one.say(change={"add": [SERVICE4], "delete": []})
        one.renew()
        wait(lambda: caught(one, SERVICE4) != "")
        wait(lambda: caught(one, SERVICE4) == "", 6)
        one.renew()
        wait(lambda: caught(one, SERVICE4) != "")


def end_the_daemon(one: Helper) -> None:
    one.sock.close()


def kill_worker(one: Helper) -> None:
    os.kill(one.processes()[0], signal.SIGKILL)


def kill_guard(one: Helper) -> None:
    guard = one.processes()[1]
    os.kill(guard, signal.SIGKILL)
    wait(lambda: len(now := one.processes()) == 3 and guard not in now)


def terminate(one: Helper) -> None:
    os.kill(one.processes()[0], signal.SIGTERM)


def nonsense(one: Helper) -> None:
    one.say(run={"command": "id > /tmp/x"})


WAYS: dict[str, list[Callable[[Helper], Any]]] = {
    "the daemon ends": [end_the_daemon],
    "the worker is killed": [kill_worker],
    "the guard is killed, then the worker": [kill_guard, kill_worker],
    "the guard is killed, then the daemon ends": [kill_guard, end_the_daemon],
    "the guard is killed twice, then the worker": [kill_guard, kill_guard, kill_worker],
    "it is told to end": [terminate],
    "it does not understand": [nonsense],
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left(laptop: PodNetwork, way: str) -> None:
    before = laptop.pod.state()
    with helper(laptop.pod) as one:
        one.begin()
        one.say(change={"add": [SERVICE4, SERVICE6], "delete": []})
        one.say(dns={"servers": [OUTSIDE_IP4]})
        one.renew()
        wait(lambda: caught(one, SERVICE4) != "")
        assert laptop.pod.state() != before
        for step in WAYS[way]:
            step(one)
        wait(lambda: one.processes() == [], 10)
        for sock in one.sockets.values():
            sock.close()
        assert laptop.pod.state() == before


@pytest.mark.parametrize("first", ["worker", "guard"])
def test_two_killed_however_quickly_leave_nothing(laptop: PodNetwork, first: str) -> None:
    """In between one has noticed the end of the other, or not, or is about to do something about it."""
    before = laptop.pod.state()
    for delay in (0, 0.0003, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032):
        for one_guard in (1, 2):
            with helper(laptop.pod) as one:
                one.begin()
                processes = one.processes()
                victims = [processes[0], processes[one_guard]]
                for pid in victims if first == "worker" else reversed(victims):
                    os.kill(pid, signal.SIGKILL)
                    time.sleep(delay)  # what is tried out is this very time
                wait(lambda one=one: one.processes() == [], 10)
            assert laptop.pod.state() == before, f"{delay} s apart, the guard that is number {one_guard}"


def test_who_guards_holds_nothing_that_others_wait_for(laptop: PodNetwork) -> None:
    """Neither at the beginning nor when it is another's successor; nor does the one that works gather more and more."""
    with helper(laptop.pod) as one:
        one.begin()
        count = len(descriptors(one.processes()[0]))
        for _ in range(3):
            worker, *guards = one.processes()
            assert len(guards) == 2
            for guard in guards:
                # Output, the name, its own pipe, the one that works, and the older ones.
                wait(lambda guard=guard: _kinds(guard) in ({"null": 3, "socket": 1, "pipe": n} for n in (2, 3)))
            kill_guard(one)
            assert len(descriptors(worker)) == count


def _kinds(pid: int) -> dict[str, int]:
    return dict(Counter(kind.partition(":")[0].rpartition("/")[2] for kind in descriptors(pid)))


def test_what_somebody_holds_for_a_moment_is_undone_then(laptop: PodNetwork) -> None:
    before = laptop.pod.state()
    rule = ("-m", "set", "--match-set", "tproxy-net4", "dst")
    with helper(laptop.pod) as one:
        one.begin()
        laptop.pod.run("iptables-legacy", "-A", "INPUT", *rule)
        worker = one.processes()[0]
        os.kill(worker, signal.SIGKILL)
        # All else goes, and one of those that guard waits for the set, the other one for it.
        wait(lambda: laptop.pod.state()["ipset list -name"].split() == ["tproxy-net4"])
        assert len(one.processes()) == 2
        laptop.pod.run("iptables-legacy", "-D", "INPUT", *rule)
        wait(lambda: not one.processes())
    wait(lambda: laptop.pod.state() == before)


def test_all_killed_at_once_leaves_what_catches_nothing_and_the_next_one_removes_it(laptop: PodNetwork) -> None:
    before = laptop.pod.state()
    with helper(laptop.pod) as one:
        one.begin()
        one.say(change={"add": [OUTSIDE_IP4], "delete": []})
        one.renew()
        wait(lambda: caught(one, OUTSIDE_IP4) != "")
        processes = one.processes()
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        for pid in reversed(processes):
            os.kill(pid, signal.SIGKILL)
        wait(lambda: one.processes() == [])
        assert laptop.pod.state() != before
        wait(lambda: caught(one, OUTSIDE_IP4) == "", 6)
    with helper(laptop.pod) as another:
        another.begin()
        another.renew()
        assert caught(another, OUTSIDE_IP4) == ""
    wait(lambda: laptop.pod.state() == before)


def test_there_is_one_at_a_time(laptop: PodNetwork) -> None:
    with helper(laptop.pod) as one:
        one.begin()
        other = Helper(laptop.pod)
        assert other.started.wait(10) == IN_USE
        other.sock.close()
        assert other.started.stderr is not None
        other.started.stderr.close()
        one.say(change={"add": [SERVICE4], "delete": []})
        one.renew()
        wait(lambda: caught(one, SERVICE4) != "")


def test_who_has_had_enough_of_waiting_sees_no_traceback(laptop: PodNetwork) -> None:
    """Ctrl-C while the daemon has not yet said anything: the first process is the one in front of the terminal."""
    before = laptop.pod.state()
    with helper(laptop.pod) as one:
        wait(lambda: len(one.processes()) > 1)
        one.started.send_signal(signal.SIGINT)
        assert one.started.wait(10) == -signal.SIGINT
        one.sock.close()
        wait(lambda: not one.processes())
        assert one.started.stderr is not None
        assert one.started.stderr.read() == ""
    assert laptop.pod.state() == before


@pytest.mark.parametrize(
    "message",
    [
        {"change": {"add": ["127.0.0.1"], "delete": []}},
        {"change": {"add": ["x"], "delete": []}},
        {"change": {"add": ["10.0.0.0/8"] * 3000, "delete": []}},
        {"change": {"add": [7], "delete": []}},
        {"dns": {"servers": ["10.0.0.0/8"]}},
        {"family": 16, "kind": 3, "count": 1},
        {"family": 2, "kind": 1, "count": 1000},
        {"exec": "/bin/sh"},
        {"verdicts": [[1, "sh"]]},
        {"verdicts": [[-1, "open"]]},
        {"verdicts": [[1, "open"], 2]},
        {"verdicts": [[1, "open"]] * 3000},
    ],
)
def test_nonsense_ends_it(laptop: PodNetwork, message: dict[str, Any]) -> None:
    with helper(laptop.pod) as one:
        one.begin()
        one.say(**message)
        told, _ = one.hear()
        assert "failed" in told
        wait(lambda: one.processes() == [])


def test_many_addresses_come_and_go_quickly(laptop: PodNetwork) -> None:
    addresses = [f"10.{64 + number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(5000)]
    with helper(laptop.pod) as one:
        one.begin()
        began = time.monotonic()
        for _ in range(3):
            for at in range(0, 5000, 1000):
                one.say(change={"add": addresses[at : at + 1000], "delete": []})
            for at in range(0, 5000, 1000):
                one.say(change={"add": [], "delete": addresses[at : at + 1000]})
        one.say(change={"add": [addresses[4999]], "delete": []})
        one.renew()
        wait(lambda: caught(one, addresses[4999]) != "", 20)
        print(f"30,000 changes in {time.monotonic() - began:.2f} s")
