"""The lab's DNS: names of Services and pods, and of nothing else."""

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.kube.port import ENDPOINTSLICES, NAMESPACES, SERVICES
from tproxy.lab.api.resources import builtin_kinds
from tproxy.lab.api.store import Store
from tproxy.lab.dns import Zone, truncated


def make_store() -> Store:
    store = Store(builtin_kinds())
    store.create(NAMESPACES, {"metadata": {"name": "shop"}})
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    for name, addresses in (("web", ["10.96.0.40", "fd96::40"]), ("db", ["None"]), ("many", ["None"])):
        spec = {"clusterIP": addresses[0], "clusterIPs": addresses, "ports": ports}
        store.create(SERVICES, {"metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    endpoints = {
        "db": [
            {"addresses": ["10.244.1.7"], "conditions": {"ready": True}},
            {"addresses": ["10.244.2.7"], "conditions": {"ready": True}, "hostname": "second"},
            {"addresses": ["10.244.2.8"], "conditions": {"ready": False}},
        ],
        "many": [{"addresses": [f"10.244.1.{number}"]} for number in range(2, 202)],
    }
    for name, some in endpoints.items():
        labels = {"kubernetes.io/service-name": name}
        store.create(
            ENDPOINTSLICES,
            {
                "metadata": {"name": f"{name}-4", "namespace": "shop", "labels": labels},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": some,
            },
        )
    return store


ZONE = Zone(make_store())


def ask(name: str, kind: str = "A", zone: Zone = ZONE) -> tuple[str, list[str]]:
    """The answer's code and records as text."""
    wire = zone.respond(dns.message.make_query(name, kind).to_wire())
    assert wire is not None
    response = dns.message.from_wire(wire)
    return dns.rcode.to_text(response.rcode()), sorted(
        record.to_text() for answer in response.answer for record in answer
    )


@pytest.mark.parametrize(
    ("name", "kind", "code", "records"),
    [
        ("web.shop.svc.cluster.local", "A", "NOERROR", ["10.96.0.40"]),
        ("WEB.Shop.svc.Cluster.local", "A", "NOERROR", ["10.96.0.40"]),
        ("web.shop.svc.cluster.local", "AAAA", "NOERROR", ["fd96::40"]),
        ("web.shop.svc.cluster.local", "ANY", "NOERROR", ["10.96.0.40", "fd96::40"]),
        ("web.shop.svc.cluster.local", "MX", "NOERROR", []),
        ("db.shop.svc.cluster.local", "A", "NOERROR", ["10.244.1.7", "10.244.2.7"]),
        ("db.shop.svc.cluster.local", "AAAA", "NOERROR", []),
        ("10-244-1-7.db.shop.svc.cluster.local", "A", "NOERROR", ["10.244.1.7"]),
        ("second.db.shop.svc.cluster.local", "A", "NOERROR", ["10.244.2.7"]),
        ("third.db.shop.svc.cluster.local", "A", "NXDOMAIN", []),
        ("x.web.shop.svc.cluster.local", "A", "NXDOMAIN", []),
        ("_http._tcp.web.shop.svc.cluster.local", "SRV", "NOERROR", ["0 100 80 web.shop.svc.cluster.local."]),
        (
            "_http._tcp.db.shop.svc.cluster.local",
            "SRV",
            "NOERROR",
            [
                "0 100 8080 10-244-1-7.db.shop.svc.cluster.local.",
                "0 100 8080 second.db.shop.svc.cluster.local.",
            ],
        ),
        ("_http._udp.web.shop.svc.cluster.local", "SRV", "NXDOMAIN", []),
        ("cluster.local", "A", "NOERROR", []),
        ("shop.svc.cluster.local", "A", "NOERROR", []),
        ("nowhere.svc.cluster.local", "A", "NXDOMAIN", []),
        ("nothing.shop.svc.cluster.local", "A", "NXDOMAIN", []),
        ("web.shop.cluster.local", "A", "NXDOMAIN", []),
        ("example.com", "A", "REFUSED", []),
        ("local", "A", "REFUSED", []),
    ],
)
def test_answers(name: str, kind: str, code: str, records: list[str]) -> None:
    assert ask(name, kind) == (code, records)


def test_the_laptops_resolver_knows_no_cluster() -> None:
    assert ask("web.shop.svc.cluster.local", zone=Zone(None)) == ("NXDOMAIN", [])


def test_an_answer_too_long_for_udp_says_ask_by_tcp() -> None:
    query = dns.message.make_query("many.shop.svc.cluster.local", "A").to_wire()
    whole = ZONE.respond(query)
    assert whole is not None
    short = dns.message.from_wire(truncated(query, whole))
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert len(dns.message.from_wire(whole).answer[0]) == 200


def test_a_larger_buffer_of_the_client_is_used() -> None:
    query = dns.message.make_query("db.shop.svc.cluster.local", "A", use_edns=0, payload=4096).to_wire()
    whole = ZONE.respond(query)
    assert whole is not None
    assert truncated(query, whole) == whole


def test_a_response_is_no_question() -> None:
    query = dns.message.make_query("web.shop.svc.cluster.local", "A")
    assert ZONE.respond(dns.message.make_response(query).to_wire()) is None


@given(st.binary(max_size=200))
def test_garbage_is_survived(wire: bytes) -> None:
    answer = ZONE.respond(wire)
    if answer is not None:
        truncated(wire, answer)


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6), st.integers(1, 300))
def test_strange_names_are_survived(labels: list[bytes], kind: int) -> None:
    wire = b"\0\1\1\0\0\1\0\0\0\0\0\0"
    wire += b"".join(bytes((len(label),)) + label for label in labels)
    wire += b"\3svc\7cluster\5local\0" + kind.to_bytes(2, "big") + b"\0\1"
    assert ZONE.respond(wire) is not None
