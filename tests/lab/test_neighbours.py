"""Pods as they are in other people's clusters: an intercept gets the laptop's answer, and `leave` leaves nothing.

Each way of being a pod is a Deployment of one pod; all of them are there at once. With both ways of steering.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kernel.namespaces import Namespace
from tests.lab.laptop import Laptop, local_app, network
from tproxy.kube.port import NAMESPACES, SERVICES
from tproxy.lab.addresses import NODE_DNS
from tproxy.lab.layout import NETNS

HERE = Path(__file__).parent
HELLO = [str(HERE / "hello.py"), "--port", "8080"]
RESOLVERS = {"IPv4": NODE_DNS[0], "IPv6": NODE_DNS[1]}
PROBE = {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2}
MESHES = ("sidecar", "ambient", "linkerd")

REUSEPORT = """
import os, socket
os.fork(); os.fork()
server = socket.socket(socket.AF_INET6)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("::", 8080)); server.listen()
while True:
    connection = server.accept()[0]
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + os.environ["POD"].encode())
    connection.close()
"""
RESOLVING = """
import os, socket
server = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection = server.accept()[0]
    connection.recv(4096)
    try:
        found = socket.gethostbyname("plain")
    except OSError as error:
        found = str(error)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + f"{os.environ['POD']} {found}".encode())
    connection.close()
"""


def app(*command: str, **more: Any) -> dict[str, Any]:
    """The container `app`; by default a server at 8080."""
    return {
        "name": "app",
        "command": list(command) or ["python", *HELLO],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "http", "containerPort": 8080}],
        **more,
    }


def manifests() -> str:
    """Everybody, and Services."""
    late = "while [ ! -e /srv/shared/go ]; do sleep 0.05; done; exec python " + " ".join(HELLO)
    shared = {"volumes": [{"name": "shared", "emptyDir": {}}]}
    mount = [{"name": "shared", "mountPath": "/srv/shared"}]
    second = app("python", HELLO[0], "--port", "8081", name="second", ports=[{"name": "other", "containerPort": 8081}])
    ports = [{"name": "http", "containerPort": 8080, "hostPort": 9080}]
    plain: dict[str, Any] = {"nodeName": "node1"}
    specs: dict[str, dict[str, Any]] = {
        "plain": {**plain, "containers": [app(readinessProbe=PROBE)]},
        "twin": {**plain, "containers": [app()]},
        "several": {"containers": [second, app()]},
        "reuseport": {"containers": [app("python", "-c", REUSEPORT)]},
        "late": {**shared, "containers": [app("sh", "-c", late, volumeMounts=mount)]},
        "hostport": {"containers": [app(ports=ports)]},
    }
    for family, address in RESOLVERS.items():
        specs[f"resolving-{family.lower()}"] = {
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": [address], "searches": ["neighbours.svc.cluster.local"]},
            "containers": [app("python", "-c", RESOLVING)],
        }
    joining = "while [ ! -e /srv/shared/go ]; do sleep 0.05; done; exec python " + f"{HERE / 'mesh.py'} ambient"
    proxy = {"name": "proxy", "command": ["sh", "-c", joining], "volumeMounts": mount}
    specs["joining"] = {**shared, "containers": [app(volumeMounts=mount), proxy]}
    for mesh in MESHES:
        proxy = {"name": "proxy", "command": ["python", str(HERE / "mesh.py"), mesh]}
        others = [second] if mesh == "sidecar" else []
        specs[mesh] = {"containers": [proxy, app(readinessProbe=PROBE), *others]}
    made = []
    for name, spec in specs.items():
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1, **spec}}
        body = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        made.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": body})
    for name, extra in {
        "plain": {"type": "NodePort"},
        "local": {"type": "NodePort", "externalTrafficPolicy": "Local"},
        "twin": {},
    }.items():
        selector = {"app": "plain" if name == "local" else name}
        service = {
            "selector": selector,
            "ports": [{"port": 80, "targetPort": "http"}],
            "ipFamilyPolicy": "PreferDualStack",
            **extra,
        }
        made.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service})
    return yaml.safe_dump_all(made)


class Scene(Laptop):
    """The laptop's person, and the pods by the names of their Deployments."""

    def pod(self, name: str) -> Any:
        return self.lab.ready_pod(self.namespace, f"{name}-")

    def ask(self, url: str, *options: str, place: str = "user") -> str:
        """The first word of the answer."""
        asked = ("curl", "-sg", "--max-time", "5", *options, url)
        words = self.lab.exec(place, *asked, check=False).stdout.split()
        return str(words[0]) if words else "nothing"

    def urls(self, name: str) -> list[str]:
        """The app's, of both families."""
        return [_url(address) for address in self.pod(name)["addresses"]]

    @contextlib.contextmanager
    def intercepted(self, name: str, *arguments: str) -> Iterator[Any]:
        try:
            yield self.json("intercept", name, "-p", "3000:8080", "-n", self.namespace, *arguments)
        finally:
            self.tproxy("leave", name, "-n", self.namespace)

    @contextlib.contextmanager
    def untouched(self, name: str) -> Iterator[None]:
        """A pod's network is afterwards as it was before, and it was ready and not restarted all the time."""
        with self.inside(name) as place:
            before = place.state()
            yield
            self.lab.wait(lambda: place.state() == before, "the pod's network as it was")
        assert (self.pod(name)["ready"], self.pod(name)["restarts"]) == (True, 0)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[Namespace]:
        one = network(self.pod(name)["netns"])
        try:
            yield one
        finally:
            one.netns.close()

    def passed(self, name: str) -> list[list[str]]:
        """What a mesh's proxy says has passed."""
        pod = self.pod(name)
        text = self.lab.run("logs", f"pod/{self.namespace}/{pod['name']}", "-c", "proxy").stdout
        return [line.split() for line in text.splitlines() if line.startswith(("inbound", "outbound"))]

    def checks_at_the_laptop(self) -> str:
        return str(self.lab.exec("laptop", "curl", "-s", "http://127.0.0.1:3000/probes").stdout)


def _url(address: str) -> str:
    return f"http://[{address}]:8080/" if ":" in address else f"http://{address}:8080/"


@pytest.fixture(scope="module", params=["lab", "other_lab"], ids=["sk_lookup", "tproxy"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Everybody in place, and the local app. The second lab's daemons steer by TPROXY rules."""
    lab = request.getfixturevalue(str(request.param))
    lab.client.create(NAMESPACES, {"metadata": {"name": "neighbours"}})
    one = Scene(lab, "neighbours")
    serves = ("curl", "-s", "http://127.0.0.1:3000/")
    local = local_app(
        lab, [HELLO[0], "--port", "3000"], lambda: lab.exec("laptop", *serves, check=False).returncode == 0
    )
    try:
        lab.apply(manifests(), "neighbours")
        yield one
    finally:
        one.tproxy("quit", check=False)
        local.terminate()
        local.wait(10)
        lab.client.delete(NAMESPACES, "neighbours")


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.id.partition("-")[0])


@pytest.mark.parametrize("mesh", MESHES)
def test_behind_a_meshs_proxy(scene: Scene, mesh: str) -> None:
    name = scene.pod(mesh)["name"]
    for url in scene.urls(mesh):
        assert scene.ask(url) == name
    with scene.untouched(mesh):
        with scene.intercepted(mesh):
            for url in scene.urls(mesh):
                before = len(scene.passed(mesh))
                assert scene.ask(url) == "laptop", url
                assert len(scene.passed(mesh)) > before, "the mesh's proxy has not seen it"
            assert "kube-probe" not in scene.checks_at_the_laptop()
        for url in scene.urls(mesh):
            scene.lab.wait(lambda: scene.ask(url) == name, "the pod's own answer")  # noqa: B023


@pytest.mark.parametrize("mesh", MESHES)
def test_personal_behind_a_meshs_proxy(scene: Scene, mesh: str) -> None:
    name = scene.pod(mesh)["name"]
    with scene.untouched(mesh), scene.intercepted(mesh, "--http-header", "x-me=1"):
        for url in scene.urls(mesh):
            assert scene.ask(url, "-H", "x-me: 1") == "laptop", url
            assert scene.ask(url) == name, url


def test_the_pods_own_connections_behind_a_meshs_proxy(scene: Scene) -> None:
    target = scene.urls("plain")[0]
    for mesh in MESHES:
        pod = scene.pod(mesh)
        place = f"pod/{scene.namespace}/{pod['name']}"
        with scene.intercepted(mesh):
            before = len([line for line in scene.passed(mesh) if line[0] == "outbound"])
            done = scene.lab.run("exec", "-c", "app", place, "--", "curl", "-sg", "--max-time", "5", target)
            assert done.stdout.split()[0] == scene.pod("plain")["name"]
            assert len([line for line in scene.passed(mesh) if line[0] == "outbound"]) > before


def test_a_port_that_the_mesh_leaves_alone(scene: Scene, backend: str) -> None:
    """TPROXY rules cannot tell it from the others, so it stays with the app: no intercept, but no hang either."""
    name = scene.pod("sidecar")["name"]
    urls = [url.replace("8080", "8081") for url in scene.urls("sidecar")]
    with scene.untouched("sidecar"):
        scene.json("intercept", "sidecar", "-p", "3000:8081", "-n", scene.namespace)
        expected = "laptop" if backend == "sk_lookup" else name
        assert [scene.ask(url) for url in urls] == [expected, expected]
        scene.tproxy("leave", "sidecar", "-n", scene.namespace)
        for url in urls:
            scene.lab.wait(lambda: scene.ask(url) == name, "the pod's own answer")  # noqa: B023


def test_a_mesh_that_takes_a_pod_in_while_it_is_intercepted(scene: Scene) -> None:
    """TPROXY rules have to be made anew then, which takes the node daemon a look."""
    pod = scene.pod("joining")
    with scene.intercepted("joining"):
        assert [scene.ask(url) for url in scene.urls("joining")] == ["laptop", "laptop"]
        scene.lab.run("exec", "-c", "app", f"pod/{scene.namespace}/{pod['name']}", "--", "touch", "/srv/shared/go")
        log = f"pod/{scene.namespace}/{pod['name']}"
        scene.lab.wait(lambda: "ready" in scene.lab.run("logs", log, "-c", "proxy").stdout, "the mesh's proxy")
        for url in scene.urls("joining"):
            before = len(scene.passed("joining"))
            scene.lab.wait(lambda: scene.ask(url) == "laptop", "the laptop's answer")  # noqa: B023
            assert len(scene.passed("joining")) > before
    scene.lab.wait(lambda: scene.ask(scene.urls("joining")[0]) == pod["name"], "the pod's own answer")


def test_by_node_port_and_service(scene: Scene) -> None:
    pod = scene.pod("plain")
    services = {one["metadata"]["name"]: one["spec"] for one in scene.lab.client.list(SERVICES, scene.namespace)}
    node = next(one for one in scene.lab.status()["nodes"] if one["name"] == pod["node"])
    urls = [f"http://plain.{scene.namespace}.svc.cluster.local/", f"http://[{services['plain']['clusterIPs'][1]}]/"]
    for name in ("plain", "local"):
        port = services[name]["ports"][0]["nodePort"]
        urls += [f"http://{node['addresses'][0]}:{port}/", f"http://[{node['addresses'][1]}]:{port}/"]
    with scene.untouched("plain"):
        for url in urls:
            assert scene.ask(url) == pod["name"], url
        with scene.intercepted("plain"):
            for url in urls:
                began = time.monotonic()
                assert scene.ask(url) == "laptop", url
                assert time.monotonic() - began < 2, url
        for url in urls:
            scene.lab.wait(lambda: scene.ask(url) == pod["name"], "the pod's own answer")  # noqa: B023


def test_who_the_client_is_by_node_port(scene: Scene) -> None:
    """What the app would have seen is what it is: the node's address with source NAT, the client's without."""
    services = {one["metadata"]["name"]: one["spec"] for one in scene.lab.client.list(SERVICES, scene.namespace)}
    node = next(one for one in scene.lab.status()["nodes"] if one["name"] == scene.pod("plain")["node"])
    seen = {}
    for name in ("plain", "local"):
        url = f"http://{node['addresses'][0]}:{services[name]['ports'][0]['nodePort']}/"
        seen[name] = scene.lab.exec("user", "curl", "-s", url).stdout.split()[1]
    assert seen["plain"] in (node["addresses"][0], "10.244.1.1")  # whichever of the node's faces the pod
    assert seen["local"] == scene.lab.status()["user"]["addresses"][0]


def test_by_host_port(scene: Scene) -> None:
    pod = scene.pod("hostport")
    node = next(one for one in scene.lab.status()["nodes"] if one["name"] == pod["node"])
    urls = [f"http://{node['addresses'][0]}:9080/", f"http://[{node['addresses'][1]}]:9080/"]
    with scene.untouched("hostport"):
        for url in urls:
            assert scene.ask(url) == pod["name"], url
        with scene.intercepted("hostport"):
            assert [scene.ask(url) for url in urls] == ["laptop", "laptop"]
        for url in urls:
            scene.lab.wait(lambda: scene.ask(url) == pod["name"], "the pod's own answer")  # noqa: B023


def test_two_pods_with_one_port_on_one_node(scene: Scene) -> None:
    assert scene.pod("plain")["node"] == scene.pod("twin")["node"]
    twin = scene.pod("twin")["name"]
    with scene.untouched("twin"), scene.intercepted("plain"):
        for url in scene.urls("twin"):
            assert scene.ask(url) == twin
        assert [scene.ask(url) for url in scene.urls("plain")] == ["laptop", "laptop"]


def test_several_containers(scene: Scene) -> None:
    name = scene.pod("several")["name"]
    other = [url.replace("8080", "8081") for url in scene.urls("several")]
    with scene.untouched("several"), scene.intercepted("several"):
        assert [scene.ask(url) for url in scene.urls("several")] == ["laptop", "laptop"]
        assert [scene.ask(url) for url in other] == [name, name]


def test_a_group_of_processes_on_one_port(scene: Scene) -> None:
    name = scene.pod("reuseport")["name"]
    with scene.untouched("reuseport"):
        with scene.intercepted("reuseport"):
            assert {scene.ask(url) for url in scene.urls("reuseport") for _ in range(6)} == {"laptop"}
        assert {scene.ask(url) for url in scene.urls("reuseport") for _ in range(6)} == {name}


def test_an_app_that_starts_after_the_intercept(scene: Scene) -> None:
    pod = scene.pod("late")
    urls = scene.urls("late")
    place = f"pod/{scene.namespace}/{pod['name']}"
    assert [scene.ask(url) for url in urls] == ["nothing", "nothing"]
    with scene.intercepted("late"):
        assert [scene.ask(url) for url in urls] == ["laptop", "laptop"]
        scene.lab.run("exec", place, "--", "touch", "/srv/shared/go")
        time.sleep(0.5)  # it starts unseen: what must not change can only be waited for
        assert [scene.ask(url) for url in urls] == ["laptop", "laptop"]
    for url in urls:
        scene.lab.wait(lambda: scene.ask(url) == pod["name"], "the pod's own answer")  # noqa: B023


@pytest.mark.parametrize("family", RESOLVERS)
def test_names_by_the_nodes_own_resolver(scene: Scene, family: str) -> None:
    """The pod's queries go to an address of the node alone, and an intercept is none of their business."""
    name = f"resolving-{family.lower()}"
    pod = scene.pod(name)
    url = scene.urls(name)[0]
    answer = scene.lab.exec("user", "curl", "-s", url).stdout
    assert answer.split()[0] == pod["name"]
    assert answer.split()[1].startswith("10.96.")
    with scene.untouched(name), scene.intercepted(name, "--http-header", "x-me=1"):
        assert scene.ask(url, "-H", "x-me: 1") == "laptop"
        assert scene.lab.exec("user", "curl", "-s", url).stdout == answer


def test_a_pod_whose_network_is_built_anew(scene: Scene) -> None:
    """The sandbox dies and the same pod gets another network namespace: the intercept is there again."""
    with scene.intercepted("twin"):
        pod = scene.pod("twin")
        assert [scene.ask(url) for url in scene.urls("twin")] == ["laptop", "laptop"]
        netns = (NETNS / pod["netns"]).stat().st_ino
        scene.lab.exec("router", "kill", "-9", str(pod["holder"]))

        def again() -> bool:
            now = [one for one in scene.lab.pods(scene.namespace, "twin-") if one["ready"]]
            return bool(now) and (NETNS / now[0]["netns"]).stat().st_ino != netns

        scene.lab.wait(again, "another network")
        assert scene.pod("twin")["uid"] == pod["uid"]
        for url in scene.urls("twin"):
            scene.lab.wait(lambda: scene.ask(url) == "laptop", "the laptop's answer")  # noqa: B023
    scene.lab.wait(lambda: scene.ask(scene.urls("twin")[0]) == scene.pod("twin")["name"], "the pod's own answer")
