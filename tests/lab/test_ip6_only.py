"""Pods without any IPv4 address: reached through `run` and `connect`, left from by them, and intercepted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.connected import Connected
from tests.lab.laptop import each_backend, local_app
from tests.lab.person import Person
from tproxy.kube.port import NAMESPACES, SERVICES
from tproxy.lab.pod import FAMILY_ANNOTATION

NAMESPACE, BESIDE = "six-only", "six-beside"
HELLO = str(Path(__file__).with_name("hello.py"))


def manifests(lab: Any) -> str:
    """A Deployment `web` of such pods, and its Service, which has no IPv4 address either."""
    text: str = lab.server("web", 2)
    labels = "metadata: {labels: {app: web}}"
    assert labels in text
    text = text.replace(labels, f"metadata: {{labels: {{app: web}}, annotations: {{{FAMILY_ANNOTATION}: IPv6}}}}")
    return text.rstrip() + "\n  ipFamilies: [IPv6]\n"


@pytest.fixture(scope="module")
def cluster(lab: Any) -> Iterator[Any]:
    for name, text in ((NAMESPACE, manifests(lab)), (BESIDE, lab.server("far"))):
        lab.client.create(NAMESPACES, {"metadata": {"name": name}})
        lab.apply(text, name)
    yield lab
    for name in (NAMESPACE, BESIDE):
        lab.client.delete(NAMESPACES, name)


def hosts(lab: Any) -> list[str]:
    """What its Service and a pod are called, with the port."""
    pod = lab.ready_pod(NAMESPACE, "web-")
    [address] = pod["addresses"]
    assert ":" in address
    [service] = lab.client.get(SERVICES, "web", NAMESPACE)["spec"]["clusterIPs"]
    full = f"web.{NAMESPACE}.svc.cluster.local"
    return [f"web.{NAMESPACE}", full, f"[{service}]", f"[{address}]:8080"]


def test_the_pods_have_no_ip4_at_all(cluster: Any) -> None:
    pod = cluster.ready_pod(NAMESPACE, "web-")
    shown = cluster.exec(f"pod/{NAMESPACE}/{pod['name']}", "ip", "-4", "address", "show", "eth0").stdout
    assert "inet" not in shown
    resolvers = cluster.exec(f"pod/{NAMESPACE}/{pod['name']}", "cat", "/etc/resolv.conf").stdout
    assert "nameserver fd96::a" in resolvers


@pytest.mark.parametrize("origin", [(NAMESPACE, "web"), (BESIDE, "far")], ids=["from itself", "from a pod with both"])
def test_through_run(cluster: Any, origin: tuple[str, str]) -> None:
    person = Person(cluster, origin[0])
    try:
        urls = [f"http://{host}/" for host in hosts(cluster)]
        script = 'for url; do curl -sSg --max-time 10 "$url"; done'
        said = person.run("sh", "-c", script, "sh", *urls, options=["--as", f"deploy/{origin[1]}"]).stdout
        assert [line[:4] for line in said.splitlines()] == ["web-"] * len(urls), said
        name = f"web.{NAMESPACE}.svc.cluster.local"
        asked = person.run("sh", "-c", f"dig +short {name} AAAA; echo; dig {name} A").stdout
        addresses, _, about = asked.partition("\n\n")
        assert addresses.splitlines() == cluster.client.get(SERVICES, "web", NAMESPACE)["spec"]["clusterIPs"]
        assert "status: NOERROR" in about
        assert "ANSWER: 0" in about, "the name exists, and has no IPv4 address"
    finally:
        person.close()


@pytest.mark.parametrize("namespace", [NAMESPACE, BESIDE], ids=["from itself", "from a pod with both"])
def test_through_connect(cluster: Any, namespace: str) -> None:
    laptop = Connected(cluster, namespace)
    try:
        laptop.connect()
        for host in hosts(cluster):
            assert laptop.get(f"http://{host}/").startswith("web-"), host
        name = f"web.{NAMESPACE}.svc.cluster.local"
        assert laptop.dig(name, "AAAA") == cluster.client.get(SERVICES, "web", NAMESPACE)["spec"]["clusterIPs"]
        assert laptop.dig(name, "A") == []
    finally:
        laptop.tproxy("disconnect", check=False)
        cluster.wait(laptop.as_before, "nothing left")
        laptop.close()


@each_backend
def test_an_intercept_of_it(where: Any, namespace: str) -> None:
    where.apply(manifests(where), namespace)
    laptop = Connected(where, namespace)
    app = local_app(
        where,
        [HELLO, "--port", "3000"],
        lambda: laptop.get("http://127.0.0.1:3000/").startswith("laptop"),
    )
    try:
        assert laptop.seen() == "pod"
        laptop.intercept()
        for _ in range(10):
            assert laptop.seen() == "laptop"
        for pod in laptop.pods():
            assert laptop.seen(url=f"http://[{pod['addresses'][0]}]:8080/") == "laptop"
        laptop.leave()
        laptop.wait_seen("pod")
    finally:
        app.terminate()
        app.wait(10)
        laptop.close()


def test_what_has_both_is_reached_from_it_by_ip6(cluster: Any) -> None:
    """Its own network has no IPv4, so neither has what runs as it; who tries that first goes on to the other."""
    person = Person(cluster, NAMESPACE)
    try:
        code = f"import urllib.request; print(urllib.request.urlopen('http://far.{BESIDE}/').read().decode())"
        assert person.python(code).startswith("far-")
    finally:
        person.close()
