"""`tproxy connect` beside other networks: VPNs in the way, a network that goes and comes, a laptop that sleeps."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace, Namespaces, run
from tests.lab.connected import Connected, connected
from tests.lab.laptop import TPROXY
from tests.lab.person import Person
from tproxy.kube.port import NAMESPACES
from tproxy.lab.addresses import ROUTER

NAMESPACE = "networks"
HOME, OFFICE = "10.96.77.1", "10.96.77.2"
"""The laptop and a server in a VPN whose network, 10.96.64.0/18, the cluster's Services are in as well."""


@pytest.fixture(scope="module")
def place(lab: Any) -> Iterator[Connected]:
    lab.client.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
    with connected(lab, NAMESPACE) as one:
        yield one
    lab.client.delete(NAMESPACES, NAMESPACE)


@pytest.fixture
def laptop(place: Connected) -> Iterator[Connected]:
    """Not connected yet."""
    try:
        yield place
    finally:
        place.tproxy("disconnect", check=False)
        place.lab.wait(place.as_before, "nothing left")


@pytest.fixture
def office(laptop: Connected) -> Iterator[Namespace]:
    """The other end of a VPN's link, with a web server."""
    netns = laptop.here.name
    made = Namespaces()
    there = made.make("office")
    server = None
    try:
        run("ip", "-n", netns, "link", "add", "wg0", "type", "veth", "peer", "name", "eth0", "netns", there.name)
        run("ip", "-n", netns, "address", "add", f"{HOME}/18", "dev", "wg0")
        run("ip", "-n", there.name, "address", "add", f"{OFFICE}/18", "dev", "eth0")
        for name, link in ((netns, "wg0"), (there.name, "eth0")):
            run("ip", "-n", name, "link", "set", link, "up")
        enter = ["ip", "netns", "exec", there.name]
        server = subprocess.Popen(
            [*enter, sys.executable, "-m", "http.server", "80", "--bind", OFFICE, "--directory", "/sys/class/net"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        laptop.lab.wait(lambda: "eth0" in laptop.get(f"http://{OFFICE}/"), "the office")
        yield there
    finally:
        if server is not None:
            server.terminate()
            server.wait(10)
        subprocess.run(["ip", "-n", netns, "link", "delete", "wg0"], capture_output=True, check=False)
        made.close()


def service_at(laptop: Connected, name: str, address: str) -> None:
    """A Service of the servers' with an address of its own."""
    from tproxy.kube.port import SERVICES

    spec = {"clusterIP": address, "selector": {"app": "servers"}, "ports": [{"port": 80, "targetPort": 8080}]}
    laptop.lab.client.create(SERVICES, {"metadata": {"name": name}, "spec": spec}, NAMESPACE)


def test_a_vpn_that_overlaps_the_cluster_keeps_working(laptop: Connected, office: Namespace) -> None:
    from tproxy.kube.port import SERVICES

    assert laptop.connect()["conflicts"] == []
    assert "eth0" in laptop.get(f"http://{OFFICE}/"), "an address of a range of the cluster's, but of no Service"
    assert laptop.get("http://servers/").startswith("servers-")
    laptop.tproxy("disconnect")
    service_at(laptop, "squatter", "10.96.77.3")
    try:
        [conflict] = laptop.connect()["conflicts"]
        assert (
            "a VPN (`wg0`) has a route to 10.96.64.0/18, where the cluster has 1 address in use" in conflict["message"]
        )
        assert "--never-proxy 10.96.64.0/18" in conflict["remedy"]
        assert "eth0" in laptop.get(f"http://{OFFICE}/"), "still"
        laptop.lab.wait(lambda: laptop.get("http://10.96.77.3/").startswith("servers-"), "the Service")
        laptop.tproxy("disconnect")
        assert laptop.connect("--never-proxy", "10.96.64.0/18")["conflicts"] == []
        assert laptop.get("http://10.96.77.3/", "--connect-timeout", "1") == "", "the remedy"
    finally:
        laptop.lab.client.delete(SERVICES, "squatter", NAMESPACE)


def test_the_tunnels_own_traffic_never_loops(laptop: Connected) -> None:
    # A person may well name a network that the API server is in.
    laptop.connect("--also-proxy", "10.99.0.0/16", "--also-proxy", "fd99::/16")
    for _ in range(3):
        assert laptop.get("http://servers/").startswith("servers-")
        assert laptop.run("curl", "-s", f"http://{ROUTER[0]}:6443/healthz", check=False) == "ok"
    [connection] = laptop.json("status")["connections"]
    assert (connection["trouble"], connection["refused"]) == ("", [])
    pid = laptop.pid()
    accepted = laptop.run("ss", "-Htnp", "state", "established", "src", ROUTER[0])
    assert f"pid={pid}," not in accepted, "no connection to the API server was caught"


def test_a_network_that_goes_and_comes_back(laptop: Connected) -> None:
    laptop.connect()
    netns = laptop.here.name
    routes = [run("ip", *family, "-n", netns, "route", "show", "default").split() for family in ((), ("-6",))]
    run("ip", "-n", netns, "link", "set", "eth0", "down")
    try:
        laptop.lab.wait(lambda: laptop.json("status")["connections"][0]["trouble"], "the daemon's notice", 30)
    finally:
        run("ip", "-n", netns, "link", "set", "eth0", "up", "addrgenmode", "eui64")
        run("ip", "-n", netns, "address", "replace", "fd99:1::2/64", "dev", "eth0", "nodad")
        for family, words in zip(((), ("-6",)), routes, strict=True):
            run("ip", *family, "-n", netns, "route", "replace", *words)
    laptop.lab.wait(lambda: laptop.get("http://servers/").startswith("servers-"), "an answer again", 60)


def test_a_laptop_that_sleeps(laptop: Connected) -> None:
    node = laptop.connect()["node"]
    laptop.lab.wait(lambda: laptop.metric(node, "tproxy_tunnels") == 1, "the node's view of it")
    pid = laptop.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        # Nothing hangs on a daemon that does not answer: the lease runs out, and names are the laptop's again.
        laptop.lab.wait(
            lambda: "NXDOMAIN" in laptop.run("dig", "+time=1", "+tries=1", "servers", check=False), "no lease"
        )
        laptop.lab.wait(lambda: laptop.metric(node, "tproxy_tunnels") == 0, "the node's giving it up")
    finally:
        os.kill(pid, signal.SIGCONT)
    laptop.lab.wait(lambda: laptop.get("http://servers/").startswith("servers-"), "an answer again", 60)
    assert laptop.helpers(), "by the same connection"


def test_who_may_not_become_root_is_told_of_another_way(lab: Any, place: Connected) -> None:
    person = Person(lab, NAMESPACE)
    try:
        done = person.exec("env", "PATH=/nowhere", sys.executable, *TPROXY[1:], "connect", check=False)
        assert done.returncode not in (0, 1), done.stderr
        assert "tproxy run" in done.stderr
        assert "Traceback" not in done.stderr
        assert place.as_before()
    finally:
        person.close()
