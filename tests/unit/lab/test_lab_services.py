"""The rules for Services, and that nft understands them."""

import shutil
import subprocess

import pytest

from tproxy.kube.port import Object
from tproxy.lab.addresses import Node
from tproxy.lab.services import Direct, Forward, directs, forwards, ruleset

NODE = ("10.99.0.11", "fd99::11")


def service(**spec: object) -> Object:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIPs": ["10.96.0.40", "fd96::40"], "ports": ports} | spec,
    }


def piece(family: str, *addresses: str, ready: bool = True, port: str = "http", name: str = "web") -> Object:
    return {
        "metadata": {"namespace": "shop", "name": "x", "labels": {"kubernetes.io/service-name": name}},
        "addressType": family,
        "ports": [{"name": port, "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
    }


def test_each_family_gets_its_own_endpoints() -> None:
    found = forwards([service()], [piece("IPv4", "10.244.2.2", "10.244.1.2"), piece("IPv6", "fd24:1::2")])
    assert found == [
        Forward("shop/web", "10.96.0.40", "tcp", 80, 0, (("10.244.1.2", 8080), ("10.244.2.2", 8080))),
        Forward("shop/web", "fd96::40", "tcp", 80, 0, (("fd24:1::2", 8080),)),
    ]


@pytest.mark.parametrize(
    "other",
    [
        piece("IPv4", "10.244.1.2", ready=False),
        piece("IPv4", "10.244.1.2", port="metrics"),
        piece("IPv4", "10.244.1.2", name="db"),
        piece("IPv6", "fd24:1::2"),
    ],
)
def test_endpoints_that_are_not_meant_do_not_count(other: Object) -> None:
    assert forwards([service(clusterIPs=["10.96.0.40"])], [other])[0].endpoints == ()


def test_a_headless_service_has_nothing_to_forward() -> None:
    assert forwards([service(clusterIP="None", clusterIPs=["None"])], [piece("IPv4", "10.244.1.2")]) == []


def test_the_rules_of_one_service() -> None:
    text = ruleset(
        [
            Forward("shop/web", "10.96.0.40", "tcp", 80, 30080, (("10.244.1.2", 8080), ("10.244.2.2", 8080))),
            Forward("shop/web", "fd96::40", "tcp", 80, 30080, ()),
        ],
        NODE,
    )
    assert text.startswith("table inet tproxy-lab { }\ndelete table inet tproxy-lab\ntable inet tproxy-lab {\n")
    for line in (
        "elements = { 10.96.0.40 . tcp . 80 : goto service0 }",
        "elements = { tcp . 30080 : goto service0 }",
        "elements = { 10.244.1.2 . 10.244.1.2, 10.244.2.2 . 10.244.2.2 }",
        "elements = { fd96::40 . tcp . 80 }",
        "meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.1.2 . 8080, 1 : 10.244.2.2 . 8080 }",
        "ct status dnat ct original ip daddr 10.99.0.11 masquerade",
    ):
        assert line in text.splitlines(), line
    assert "service1" not in text


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_nft_accepts_the_rules_without_applying_them() -> None:
    some = [
        Forward("a/b", "10.96.0.40", "udp", 53, 30053, (("10.244.1.2", 53),)),
        Forward("a/b", "fd96::40", "sctp", 9, 0, (("fd24:1::2", 9), ("fd24:2::2", 9))),
        Forward("a/c", "fd96::41", "tcp", 80, 0, ()),
    ]
    local = Direct(4, "tcp", 30080, (("10.244.1.2", 8080),))
    for wanted, direct in (([], []), (some, [local, Direct(6, "udp", 53, (("fd24:1::2", 53),))])):
        checked = subprocess.run(
            ["unshare", "--net", "--user", "--map-root-user", "nft", "--check", "-f", "-"],
            input=ruleset(wanted, NODE, direct),
            text=True,
            capture_output=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr


def test_local_node_ports_and_host_ports_lead_to_pods_of_the_node() -> None:
    local = Forward("shop/web", "10.96.0.40", "tcp", 80, 30080, (("10.244.1.2", 8080), ("10.244.2.2", 8080)), True)
    ports = [{"containerPort": 8080, "hostPort": 9000}, {"containerPort": 1}]
    pod = {
        "spec": {"nodeName": "node2", "containers": [{"name": "c", "ports": ports}]},
        "status": {"podIPs": [{"ip": "10.244.2.3"}, {"ip": "fd24:2::3"}]},
    }
    assert directs(Node(1), [local], [pod]) == [Direct(4, "tcp", 30080, (("10.244.1.2", 8080),))]
    assert directs(Node(2), [local], [pod]) == [
        Direct(4, "tcp", 30080, (("10.244.2.2", 8080),)),
        Direct(4, "tcp", 9000, (("10.244.2.3", 8080),)),
        Direct(6, "tcp", 9000, (("fd24:2::3", 8080),)),
    ]
    assert directs(Node(2), [], [{**pod, "spec": {**pod["spec"], "hostNetwork": True}}]) == []
    text = ruleset([local], NODE, directs(Node(1), [local], []))
    assert "tcp . 30080 : goto direct0" in text
    assert "ct mark set" in text
