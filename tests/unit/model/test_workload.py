"""What people write for workloads and ports, and what it means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.errors import InvalidError
from tproxy.model.intercept import InterceptPort, Target
from tproxy.model.pod import Container, ContainerPort, Pod, Service, ServicePort
from tproxy.model.workload import (
    PortMapping,
    TargetQuery,
    matches,
    nearest,
    parse_ports,
    parse_target,
    resolve_ports,
)


def pod(*ports: ContainerPort, name: str = "web-0", labels: dict[str, str] | None = None) -> Pod:
    return Pod("shop", name, f"uid-{name}", labels=labels or {"app": "web"}, containers=(Container("c", ports),))


def service(*ports: ServicePort, name: str = "web", selector: dict[str, str] | None = None) -> Service:
    return Service("shop", name, {"app": "web"} if selector is None else selector, ports)


HTTP, ADMIN = ContainerPort("http", 8080), ContainerPort("admin", 9000)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("web", None, "web"),
        ("deploy/web", "Deployment", "web"),
        ("deployment/web", "Deployment", "web"),
        ("Deployments/web", "Deployment", "web"),
        ("svc/web", "Service", "web"),
        ("pod/web-0", "Pod", "web-0"),
        ("po/web-0", "Pod", "web-0"),
        ("sts/db", "StatefulSet", "db"),
        ("rs/web-5d", "ReplicaSet", "web-5d"),
        ("ds/agent", "DaemonSet", "agent"),
        ("job/import", "Job", "import"),
        ("Rollout/web", "Rollout", "web"),
        ("web.v2", None, "web.v2"),
    ],
)
def test_targets(text: str, kind: str | None, name: str) -> None:
    assert parse_target(text) == TargetQuery(kind, name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is not the name of a workload"),
        ("deploy/", "'deploy/' is not the name of a workload"),
        ("Web", "'Web' is not the name of a workload"),
        ("web:80", "'web:80' is not the name of a workload"),
        ("widget/web", "'widget' is not a kind of workload"),
        ("a/b/web", "'a/b' is not a kind of workload"),
        ("-web", "'-web' is not the name of a workload"),
        ("w" * 254, "is not the name of a workload"),
    ],
)
def test_what_is_no_target(text: str, sentence: str) -> None:
    with pytest.raises(InvalidError) as raised:
        parse_target(text)
    assert sentence in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("3000", PortMapping(3000)),
        ("3000:8080", PortMapping(3000, 8080)),
        ("3000:http", PortMapping(3000, "http")),
        ("3000:h2-c", PortMapping(3000, "h2-c")),
        ("65535:1", PortMapping(65535, 1)),
        ("5353:53/udp", PortMapping(5353, 53, "UDP")),
        ("5353/udp", PortMapping(5353, None, "UDP")),
        ("3000:http/tcp", PortMapping(3000, "http", "TCP")),
    ],
)
def test_port_mappings(text: str, mapping: PortMapping) -> None:
    assert parse_ports(text) == mapping


@pytest.mark.parametrize(
    "text",
    [
        *["53/", "53/sctp", "53/UDP", "/udp", "5353:/udp", "5353:53/udp/udp"],
        "",
        "0",
        "65536",
        "http",
        ":80",
        "80:",
        "80:0",
        "80:99999",
        "80:80:80",
        "-1",
        "3000:1-2",
        "٣",
        "8e1",
        " 80",
    ],
)
def test_what_is_no_port_mapping(text: str) -> None:
    with pytest.raises(InvalidError, match="is not a port mapping") as raised:
        parse_ports(text)
    assert "3000:8080" in raised.value.hint


@given(st.text(max_size=20))
def test_any_text_parses_or_is_refused(text: str) -> None:
    for parse in (parse_ports, parse_target):
        try:
            parse(text)
        except InvalidError:
            continue


def resolve(text: str, pods: list[Pod], via: Service | None = None) -> list[tuple[int, int]]:
    resolved = resolve_ports([parse_ports(part) for part in text.split()], pods, via)
    assert all(port == InterceptPort(port.port, "TCP") for _, port in resolved)
    return [(local, port.port) for local, port in resolved]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3000", [(3000, 8080)]),
        ("3000:8080", [(3000, 8080)]),
        ("3000:http", [(3000, 8080)]),
    ],
)
def test_the_only_port_of_a_pod(text: str, expected: list[tuple[int, int]]) -> None:
    assert resolve(text, [pod(HTTP, ContainerPort("dns", 53, "UDP"))]) == expected


def test_one_of_several_ports() -> None:
    pods = [pod(HTTP, ADMIN)]
    assert resolve("9000", pods) == [(9000, 9000)]
    assert resolve("3000:http 4000:admin", pods) == [(3000, 8080), (4000, 9000)]
    with pytest.raises(InvalidError) as raised:
        resolve("3000", pods)
    assert raised.value.message == "there is no port 3000; ports there are: 8080 (http), 9000 (admin)"
    assert raised.value.hint == "say which one you mean, as in `--port 3000:8080`"


def test_without_a_mapping_the_ports_there_are_are_named() -> None:
    with pytest.raises(InvalidError) as raised:
        resolve_ports([], [pod(HTTP, ADMIN)])
    assert raised.value.message == "no port was given; ports there are: 8080 (http), 9000 (admin)"
    assert raised.value.hint.endswith("as in `--port 3000:8080`")
    with pytest.raises(InvalidError, match=r"^no port was given$"):
        resolve_ports([], [pod()])


def test_a_port_the_pod_does_not_have() -> None:
    for text, which in (
        ("3000:81", "port 81"),
        ("3000:grpc", "port named grpc"),
        ("3000:dns/tcp", "TCP port named dns"),
        ("3000:http/udp", "UDP port named http"),
        ("3000:81/udp", "UDP port 81"),
    ):
        with pytest.raises(InvalidError) as raised:
            resolve(text, [pod(HTTP, ContainerPort("dns", 53, "UDP"))])
        assert raised.value.message == f"there is no {which}; ports there are: 53/udp (dns), 8080 (http)"


def test_pods_that_declare_nothing_take_any_number_but_no_name() -> None:
    for pods in ([], [pod()]):
        assert resolve("3000 3001:80", pods) == [(3000, 3000), (3001, 80)]
        with pytest.raises(InvalidError, match="there is no port named http: the pods declare no ports"):
            resolve("3000:http", pods)


def test_a_name_may_mean_different_numbers_during_a_rollout() -> None:
    pods = [pod(HTTP), pod(ContainerPort("http", 8081), name="web-1")]
    assert resolve("3000:http", pods) == [(3000, 8080), (3000, 8081)]


def test_a_port_is_given_once() -> None:
    with pytest.raises(InvalidError, match="port 8080 of the pod is mapped twice"):
        resolve("3000:http 3001:8080", [pod(HTTP)])
    assert resolve("3000:http 3000:admin", [pod(HTTP, ADMIN)]) == [(3000, 8080), (3000, 9000)]


def test_ports_of_a_service() -> None:
    via = service(ServicePort("web", 80, "http"), ServicePort("ops", 9, 9000), ServicePort("u", 53, 53, "UDP"))
    pods = [pod(HTTP, ADMIN)]
    assert resolve("3000:80", pods, via) == [(3000, 8080)]
    assert resolve("3000:web", pods, via) == [(3000, 8080)]
    assert resolve("3000:8080", pods, via) == [(3000, 8080)]
    assert resolve("9", pods, via) == [(9, 9000)]
    # The Service's names are meant, not the containers'.
    with pytest.raises(
        InvalidError, match=r"there is no port named http; ports there are: 80 \(web\), 9 \(ops\), 53/udp"
    ):
        resolve("3000:http", pods, via)


def test_the_services_number_goes_before_the_pods() -> None:
    via = service(ServicePort("a", 80, 8080), ServicePort("b", 8080, 80))
    assert resolve("1:80 2:8080", [pod()], via) == [(1, 8080), (2, 80)]


def test_the_only_port_of_a_service() -> None:
    assert resolve("3000", [pod(HTTP, ADMIN)], service(ServicePort("", 80, "http"))) == [(3000, 8080)]
    assert resolve("3000", [], service(ServicePort("", 80, 8080))) == [(3000, 8080)]


def test_a_named_target_port_that_no_pod_has() -> None:
    with pytest.raises(InvalidError, match="port 80 of the Service points to a named port that none of its pods has"):
        resolve("3000:80", [pod(ADMIN)], service(ServicePort("", 80, "http")))


def test_a_service_without_ports_leaves_the_pods() -> None:
    assert resolve("3000", [pod(HTTP)], service()) == [(3000, 8080)]


DNS_TCP, DNS_UDP = ContainerPort("dns-tcp", 53), ContainerPort("dns", 53, "UDP")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5353:53/udp", "53/udp"),
        ("5353:53", "53"),
        ("5353:dns", "53/udp"),
        ("5353:dns-tcp", "53"),
        ("5353/udp", "53/udp"),
        ("5353/tcp", "53"),
        ("5353:53/tcp", "53"),
    ],
)
def test_what_a_port_is_declared_as_counts(text: str, expected: str) -> None:
    assert [str(port) for _, port in resolve_ports([parse_ports(text)], [pod(DNS_TCP, DNS_UDP)])] == [expected]
    via = service(ServicePort("dns", 53, "dns", "UDP"), ServicePort("dns-tcp", 53, "dns-tcp"))
    assert [str(port) for _, port in resolve_ports([parse_ports(text)], [pod(DNS_TCP, DNS_UDP)], via)] == [expected]


def test_both_protocols_of_a_port_go_to_the_same_or_to_different_ports() -> None:
    mappings = [parse_ports("5353:53/udp"), parse_ports("5354:53/tcp")]
    resolved = resolve_ports(mappings, [pod(DNS_TCP, DNS_UDP)])
    assert resolved == [(5353, InterceptPort(53, "UDP")), (5354, InterceptPort(53))]
    with pytest.raises(InvalidError, match="port 53/udp of the pod is mapped twice"):
        resolve_ports([parse_ports("1:53/udp"), parse_ports("2:dns")], [pod(DNS_TCP, DNS_UDP)])


def test_udp_need_not_be_declared_and_is_the_obvious_one_if_alone() -> None:
    assert resolve_ports([parse_ports("5353:53/udp")], [pod(HTTP)]) == [(5353, InterceptPort(53, "UDP"))]
    assert resolve_ports([parse_ports("5353")], [pod(DNS_UDP)]) == [(5353, InterceptPort(53, "UDP"))]


def test_which_pods_belong() -> None:
    ours = pod()
    chain = (("ReplicaSet", "web-5d"), ("Deployment", "web"))
    assert matches(Target("Deployment", "web"), ours, chain, ())
    assert matches(Target("ReplicaSet", "web-5d"), ours, chain, ())
    assert not matches(Target("Deployment", "web"), ours, (), ())
    assert not matches(Target("StatefulSet", "web"), ours, chain, ())
    assert matches(Target("Pod", "web-0"), ours, (), ())
    assert not matches(Target("Pod", "web"), ours, chain, ())


def test_which_pods_a_service_has() -> None:
    ours, target = pod(), Target("Service", "web")
    assert matches(target, ours, (), [service()])
    assert not matches(target, ours, (), [service(name="other")])
    assert not matches(target, ours, (), [service(selector={"app": "web", "track": "canary"})])
    assert not matches(target, ours, (), [service(selector={})])
    assert not matches(target, ours, (), [Service("elsewhere", "web", {"app": "web"})])
    assert not matches(target, ours, (("Service", "web"),), [])


def test_nearest_names() -> None:
    names = ["web", "web-canary", "database", "webhook"]
    assert nearest("webb", names)[0] == "web"
    assert nearest("databse", names) == ["database"]
    assert nearest("zzz", names) == []
    assert nearest("web", ["web", "web"]) == ["web"]
