"""Pods, nodes, the user and the laptop: who reaches whom, by which address and name, in both families."""

import json
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def shop(lab: Any) -> Iterator[Any]:
    """Namespace `shop`: Service web with a pod on each node, Service idle without one, headless Service peers."""
    from tproxy.kube.port import NAMESPACES

    lab.client.create(NAMESPACES, {"metadata": {"name": "shop"}})
    lab.apply(lab.server("web", replicas=2) + EXTRA, "shop")
    yield sorted(lab.pods("shop", "web"), key=lambda pod: pod["node"])
    lab.client.delete(NAMESPACES, "shop")


EXTRA = """
---
apiVersion: v1
kind: Service
metadata: {name: idle}
spec: {selector: {app: nothing}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 30123}]}
"""


TRY_ALL = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def attempt(address):
    try:
        socket.create_connection((address, 8080), timeout=5).close()
    except OSError as error:
        return type(error).__name__
    return "connected"
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(dict(zip(sys.argv[1:], pool.map(attempt, sys.argv[1:])))))
"""


def place(pod: Any) -> str:
    return f"pod/{pod['namespace']}/{pod['name']}"


def curl(lab: Any, place: str, url: str, *options: str) -> Any:
    return lab.exec(place, "curl", "-sgS", "--max-time", "5", *options, url, check=False)


def test_the_pods_are_on_different_nodes_with_an_address_of_each_family(shop: Any) -> None:
    assert [pod["node"] for pod in shop] == ["node1", "node2"]
    for number, pod in enumerate(shop, start=1):
        four, six = pod["addresses"]
        assert four.startswith(f"10.244.{number}.")
        assert six.startswith(f"fd24:{number}::")


def test_pods_reach_each_other_across_nodes_with_their_own_addresses(lab: Any, shop: Any) -> None:
    for source, target in (shop, shop[::-1]):
        for family in (0, 1):
            address = target["addresses"][family]
            answer = curl(lab, place(source), f"http://{f'[{address}]' if family else address}:8080/")
            assert answer.stdout.split()[:2] == [target["name"], source["addresses"][family]], answer.stderr


@pytest.mark.parametrize("where", ["user", "node/1", "node/2", "pod"])
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_service_reaches_every_pod_by_name(lab: Any, shop: Any, where: str, family: str) -> None:
    source = place(shop[0]) if where == "pod" else where
    url = "http://web.shop.svc.cluster.local/"
    # One process, many connections: 20 fair choices miss one of two pods once in half a million times.
    answers = lab.exec(source, "curl", "-sS", "--max-time", "10", "-H", "Connection: close", family, *[url] * 20).stdout
    assert {line.split()[0] for line in answers.splitlines()} == {pod["name"] for pod in shop}


def test_the_user_keeps_its_address_through_a_service(lab: Any, shop: Any) -> None:
    for family, address in (("-4", "10.99.0.100"), ("-6", "fd99::100")):
        answers = {curl(lab, "user", "http://web.shop/", family).stdout.split()[1] for _ in range(4)}
        assert answers == {address}


def test_a_pod_reaches_itself_through_its_service(lab: Any, namespace: str) -> None:
    lab.apply(lab.server("alone"), namespace)
    pod = lab.ready_pod(namespace, "alone")
    for family in ("-4", "-6"):
        answer = curl(lab, place(pod), "http://alone/", family)
        assert answer.stdout.split()[:1] == [pod["name"]], answer.stderr


@pytest.mark.parametrize("where", ["user", "node/1", "pod"])
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_service_without_endpoints_refuses_at_once(lab: Any, shop: Any, where: str, family: str) -> None:
    answer = curl(lab, place(shop[0]) if where == "pod" else where, "http://idle.shop.svc.cluster.local/", family)
    assert answer.returncode == 7, answer.stderr
    assert "timed out" not in answer.stderr.lower()


@pytest.mark.parametrize("node", ["10.99.0.11", "10.99.0.12", "[fd99::11]", "[fd99::12]"])
def test_a_node_port_leads_to_the_pods(lab: Any, shop: Any, node: str) -> None:
    answers = {curl(lab, "user", f"http://{node}:30123/").stdout.split()[0] for _ in range(3)}
    assert answers <= {pod["name"] for pod in shop}


def test_the_laptop_reaches_the_api_server_and_nothing_else(lab: Any, shop: Any) -> None:
    facts = lab.status()
    assert curl(lab, "laptop", f"{facts['apiServer']['url']}/healthz").stdout == "ok"
    assert curl(lab, "laptop", "http://[fd99::1]:6443/healthz").stdout == "ok"
    service = next(one for one in facts["services"] if one["name"] == "web" and one["namespace"] == "shop")
    targets = [*shop[0]["addresses"], *service["clusterIPs"], *facts["nodes"][0]["addresses"]]
    targets += facts["user"]["addresses"]
    tried = json.loads(lab.exec("laptop", "python", "-c", TRY_ALL, *targets).stdout)
    assert set(tried) == set(targets)
    assert set(tried.values()) <= {"ConnectionRefusedError", "OSError", "PermissionError"}, tried
    assert lab.exec("laptop", "getent", "hosts", "web.shop.svc.cluster.local", check=False).returncode == 2


def test_kubectl_on_the_laptop_finds_the_cluster(lab: Any, shop: Any) -> None:
    said = json.loads(lab.exec("laptop", "kubectl", "get", "pods", "-n", "shop", "-o", "json").stdout)
    assert {pod["metadata"]["name"] for pod in said["items"]} == {pod["name"] for pod in shop}


@pytest.mark.parametrize(
    ("where", "name", "found"),
    [
        ("pod", "web", True),
        ("pod", "web.shop", True),
        ("pod", "kube-dns.kube-system", True),
        ("pod", "web.shop.svc.cluster.local", True),
        ("pod", "localhost", True),
        ("pod", "nothing", False),
        ("pod", "example.com", False),
        ("user", "web.shop", True),
        ("user", "web", False),
        ("node/1", "web.shop.svc.cluster.local", True),
        ("node/1", "web.shop", False),
    ],
)
def test_names_through_the_c_library(lab: Any, shop: Any, where: str, name: str, found: bool) -> None:
    source = place(shop[0]) if where == "pod" else where
    answer = lab.exec(source, "getent", "ahosts", name, check=False)
    assert (answer.returncode == 0) == found, answer.stdout


def test_a_pod_finds_itself_under_its_name(lab: Any, shop: Any) -> None:
    said = lab.exec(place(shop[0]), "sh", "-c", 'hostname; getent ahosts "$(hostname)"').stdout
    assert said.splitlines()[0] == shop[0]["name"]
    assert all(address in said for address in shop[0]["addresses"])


def test_records_of_headless_services_and_ports(lab: Any, shop: Any) -> None:
    def dig(*question: str) -> set[str]:
        return set(lab.exec("user", "dig", "+short", "+time=2", "+tries=1", *question).stdout.split())

    assert dig("peers.shop.svc.cluster.local", "A") == {pod["addresses"][0] for pod in shop}
    assert dig("peers.shop.svc.cluster.local", "AAAA") == {pod["addresses"][1] for pod in shop}
    assert "web.shop.svc.cluster.local." in dig("_http._tcp.web.shop.svc.cluster.local", "SRV")
    assert dig("+tcp", "@fd96::a", "web.shop.svc.cluster.local", "A")


def test_connections_live_on_while_services_change(lab: Any, shop: Any, namespace: str) -> None:
    source = (
        "import http.client, sys\n"
        "connection = http.client.HTTPConnection('web.shop', timeout=5)\n"
        "for line in sys.stdin:\n"
        "    connection.request('GET', '/')\n"
        "    print(connection.getresponse().read().decode().strip(), connection.sock.getsockname()[1], flush=True)\n"
    )
    with lab.start("exec", "user", "--", "python", "-c", source, stdin=-1, stdout=-1) as client:
        client.stdin.write("\n")
        client.stdin.flush()
        before = client.stdout.readline()
        for number in range(3):
            lab.apply(lab.server(f"other{number}", replicas=0), namespace)
        client.stdin.write("\n")
        client.stdin.close()
        assert client.stdout.readline() == before
