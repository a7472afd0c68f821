"""`tproxy connect` on the laptop of the lab: what every program there then reaches, and that nothing of it is left."""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.connected import Connected, connected
from tproxy.kube.port import NAMESPACES, SESSIONS


@pytest.fixture(scope="module")
def place(lab: Any) -> Iterator[Connected]:
    lab.client.create(NAMESPACES, {"metadata": {"name": "outbound"}})
    with connected(lab, "outbound") as one:
        yield one
    lab.client.delete(NAMESPACES, "outbound")


@pytest.fixture
def laptop(place: Connected) -> Iterator[Connected]:
    """Connected for one test."""
    try:
        place.connect()
        yield place
    finally:
        place.tproxy("disconnect", check=False)
        place.lab.wait(place.as_before, "nothing left")


NAMES = ("servers", "servers.outbound", "servers.outbound.svc", "servers.outbound.svc.cluster.local")


def test_before_and_after(place: Connected) -> None:
    assert place.get("http://servers/") == ""
    assert place.get(f"http://{place.address('servers')}/", "--connect-timeout", "1") == ""
    result = place.connect()
    try:
        assert result["addresses"] > 2
        assert place.get("http://servers/").startswith("servers-")
        assert place.connect()["already"]
    finally:
        place.tproxy("disconnect")
    assert place.get("http://servers/") == ""
    assert place.as_before()
    assert place.lab.client.list(SESSIONS, place.namespace) == []


def test_by_every_name_and_address(laptop: Connected) -> None:
    pod = laptop.lab.ready_pod(laptop.namespace, "servers-")
    for host in (*NAMES, *(f"[{laptop.address('servers', 1)}]", laptop.address("servers"))):
        answer = laptop.get(f"http://{host}/")
        assert answer.startswith("servers-"), host
    for host in (pod["addresses"][0], f"[{pod['addresses'][1]}]", "headless"):
        answer = laptop.get(f"http://{host}:8080/")
        assert answer.startswith("servers-"), host
        assert answer.split()[1] in pod["addresses"], "it leaves from a pod of the namespace"


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_names_as_resolvers_ask_for_them(laptop: Connected, transport: str) -> None:
    full = NAMES[-1]
    assert laptop.dig(transport, full) == [laptop.address("servers")]
    assert laptop.dig(transport, full, "AAAA") == [laptop.address("servers", 1)]
    assert laptop.dig(transport, "servers") == [laptop.address("servers")]
    assert laptop.dig(transport, f"_http._tcp.{full}", "SRV") == [f"0 100 80 {full}."]
    assert laptop.dig(transport, "_http._tcp.servers", "SRV") == [f"0 100 80 {full}."]
    missing = laptop.run("dig", transport, "nobody.outbound.svc.cluster.local", check=False)
    assert "status: NXDOMAIN" in missing
    assert "status: NXDOMAIN" in laptop.run("dig", transport, "wpad.outbound.svc.cluster.local", check=False)


def test_other_names_and_addresses_are_the_laptops(laptop: Connected) -> None:
    direct = laptop.run("dig", "+noall", "+answer", "+comments", "www.example.com", check=False)
    assert "status: NXDOMAIN" in direct, "as the laptop's resolver says to everything"
    flags = [line for line in laptop.run("ipset", "list", "tproxy-net4").splitlines() if line.startswith("10.99.")]
    assert flags == [], "neither the API server nor a node"
    assert laptop.run("curl", "-s", "http://10.99.0.1:6443/healthz", check=False) == "ok"


def test_udp_there_and_back(laptop: Connected) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET,"
        " socket.SOCK_DGRAM); s.settimeout(5); s.connect((sys.argv[1], 7))\n"
        "for size in (1, 9000, 1400): s.send(b'x' * size); assert s.recv(65536) == b'x' * size\n"
        "u = socket.socket(s.family, socket.SOCK_DGRAM); u.settimeout(5); u.sendto(b'hi', (sys.argv[1], 7))\n"
        "data, source = u.recvfrom(100); assert data == b'hi' and source[:2] == (sys.argv[1], 7), source\nprint('ok')"
    )
    for family in (0, 1):
        assert laptop.run("python", "-c", script, laptop.address("servers", family)) == "ok\n"


def test_refused_is_refused(laptop: Connected) -> None:
    for host in (laptop.address("servers"), f"[{laptop.address('servers', 1)}]"):
        done = laptop.lab.exec("laptop", "curl", "-sg", "--max-time", "10", f"http://{host}:9/", check=False)
        assert done.returncode == 7, "could not connect, not reset after it had"


def test_who_prefers_ip6_falls_back(laptop: Connected) -> None:
    assert laptop.get("http://servers:81/").startswith("servers-"), "that port listens on IPv4 alone"


def test_bulk_arrives_whole(laptop: Connected) -> None:
    size = 64 << 20
    wanted = hashlib.sha256((bytes(range(256)) * 4096) * (size >> 20)).hexdigest()
    fetched = laptop.run("sh", "-c", f"curl -s --max-time 50 'http://servers/bulk?{size}' | sha256sum")
    assert fetched.split()[0] == wanted


def test_many_connections_at_once(laptop: Connected) -> None:
    command = f"seq 300 | xargs -P 100 -I% curl -s --max-time 20 http://{laptop.address('servers')}/ | wc -l"
    assert laptop.run("sh", "-c", command).strip() == "300"


def test_what_must_not_be_dialled_is_named(laptop: Connected) -> None:
    from tproxy.kube.port import SERVICES

    name = {"metadata": {"name": "api"}, "spec": {"clusterIP": "10.96.0.99", "ports": [{"port": 6443}]}}
    laptop.lab.client.create(SERVICES, name, laptop.namespace)
    try:
        laptop.tproxy("disconnect")
        laptop.connect("--also-proxy", "10.99.0.11/32")
        assert laptop.get("http://10.99.0.11:4771/healthz") == ""
        [connection] = laptop.json("status")["connections"]
        assert connection["refused"] == ["10.99.0.11:4771: 10.99.0.11 is denied by policy node"]
    finally:
        laptop.lab.client.delete(SERVICES, "api", laptop.namespace)


def test_never_and_also(laptop: Connected) -> None:
    laptop.tproxy("disconnect")
    service = laptop.address("servers")
    laptop.connect("--never-proxy", f"{service}/32", "--also-proxy", "10.96.0.0/24")
    entries = laptop.run("ipset", "list", "tproxy-net4").split()
    assert service not in entries
    assert laptop.get(f"http://{service}/", "--connect-timeout", "1") == ""
    assert laptop.get(f"http://[{laptop.address('servers', 1)}]/").startswith("servers-")


DAEMON, WORKER, GUARD, YOUNGER = range(4)
KILLS: dict[str, tuple[int, ...]] = {
    "daemon": (DAEMON,),
    "worker": (WORKER,),
    "daemon, worker": (DAEMON, WORKER),
    "worker, daemon": (WORKER, DAEMON),
    "guard, daemon": (GUARD, DAEMON),
    "guard, worker": (GUARD, WORKER),
    "worker, guard": (WORKER, GUARD),
    "younger guard, worker, daemon": (YOUNGER, WORKER, DAEMON),
    "daemon, guard, younger guard": (DAEMON, GUARD, YOUNGER),
}


@pytest.mark.parametrize("which", KILLS)
def test_however_it_ends_nothing_is_left(place: Connected, which: str) -> None:
    place.connect()
    assert place.get("http://servers/").startswith("servers-")
    pids = [place.pid(), *place.helpers()]
    assert len(pids) == 4
    for number in KILLS[which]:
        place.kill(pids[number])
    deadline = time.monotonic() + 20.0
    while left := place.left():
        assert time.monotonic() < deadline, str(left)
    place.tproxy("quit", check=False)


def test_what_all_of_them_leave_when_killed_at_once_is_removed_by_disconnect(place: Connected) -> None:
    place.connect()
    helpers = place.helpers()
    for pid in helpers:
        os.kill(pid, signal.SIGSTOP)
    for pid in reversed(helpers):
        place.kill(pid)
    place.lab.wait(lambda: not place.helpers(), "their end")
    assert place.left(), "rules that catch nothing"
    assert place.get("http://servers/") == ""
    assert "removed what was left" in place.tproxy("disconnect").stderr
    assert place.as_before()
    assert "no connection to undo" in place.tproxy("disconnect").stderr


def test_a_lost_tunnel_comes_back(laptop: Connected) -> None:
    node = laptop.json("status")["connections"][0]["node"]
    laptop.kill(laptop.daemon(node))
    laptop.lab.wait(lambda: laptop.get("http://servers/").startswith("servers-"), "an answer again", 30)


def test_when_its_pod_goes_another_one_is_left_from(laptop: Connected) -> None:
    from tproxy.kube.port import PODS

    origin = laptop.json("status")["connections"][0]["origin"]
    laptop.lab.client.delete(PODS, origin.partition("/")[2], laptop.namespace)
    laptop.lab.wait(lambda: laptop.json("status")["connections"][0]["origin"] not in ("", origin), "another pod", 30)
    laptop.lab.wait(lambda: laptop.get("http://servers/").startswith("servers-"), "an answer again", 30)


RESOLVER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(sys.argv[1]))
sock.bind(("127.0.0.1", 53))
while True:
    query, client = sock.recvfrom(4096)
    sock.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + bytes(6) + query[12:], client)
"""


@pytest.mark.parametrize("shares", [True, False])
def test_a_resolver_on_the_laptop_itself(place: Connected, shares: bool) -> None:
    """Whether it lets others answer at its port is its matter; if not, names are lost, but not the laptop's own."""
    conf = place.lab.layout.place_directory("laptop") / "resolv.conf.of-the-test"
    conf.write_text("nameserver 127.0.0.1\n")
    place.run("mount", "--bind", str(conf), "/etc/resolv.conf")
    server = place.lab.start("exec", "laptop", "--", "python", "-c", RESOLVER, str(int(shares)))
    try:
        place.lab.wait(lambda: "NXDOMAIN" in place.run("dig", "+time=1", "x.example", check=False), "the resolver")
        conflicts = place.connect()["conflicts"]
        if shares:
            assert conflicts == []
            assert place.dig("servers") == [place.address("servers")]
            assert place.get("http://servers/").startswith("servers-")
        else:
            assert "127.0.0.1" in conflicts[0]["message"]
            assert "tproxy run" in conflicts[0]["remedy"]
            assert place.get(f"http://{place.address('servers')}/").startswith("servers-")
        assert "NXDOMAIN" in place.run("dig", "+time=1", "x.example", check=False), "its own answer"
    finally:
        place.tproxy("disconnect", check=False)
        server.terminate()
        server.wait(10)
        place.run("umount", "/etc/resolv.conf")
    place.lab.wait(place.as_before, "nothing left")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--also-proxy", "10.0.0.0/33"), '"10.0.0.0/33" is no network'),
        (("--never-proxy", "10.0.0.1/8"), "has host bits set"),
        (("--also-proxy", "127.0.0.0/8"), "never leaves the laptop"),
        (("-n", "nowhere"), "no pod of"),
        (("--context", "none"), "none"),
    ],
)
def test_wrong_inputs_get_a_sentence_and_leave_nothing(place: Connected, arguments: tuple[str, ...], says: str) -> None:
    done = place.tproxy("connect", *arguments, check=False)
    assert done.returncode not in (0, 1), done.stderr
    assert says in done.stderr
    assert "hint:" in done.stderr
    assert place.as_before()


def test_disconnecting_what_is_not_connected(place: Connected) -> None:
    assert "no connection to undo" in place.tproxy("disconnect").stderr
