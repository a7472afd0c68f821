"""Which addresses checks of a node's pods may come from, and what they call themselves."""

import ipaddress

import pytest
from tproxy_node.options import parse
from tproxy_node.probing import Probing, reported, texts

NODE = {
    "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd24:1::/64"]},
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": "10.99.0.11"},
            {"type": "InternalIP", "address": "fd99::11"},
            {"type": "Hostname", "address": "node1"},
        ]
    },
}


def test_a_node_says_its_addresses() -> None:
    assert texts(reported(NODE)) == {"10.99.0.11", "fd99::11", "10.244.1.1", "fd24:1::1"}
    assert reported({}) == set()


def test_loopback_is_the_pods_own() -> None:
    assert texts(map(ipaddress.ip_address, ("127.0.0.1", "::1", "fe80::1%eth0"))) == {"fe80::1"}


def test_agents_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--node", "n"], {}).probe_agents == ("kube-probe/",)
    chosen = parse(["--node", "n", "--probe-agent", "GoogleHC/", "--probe-agent", "kube-probe/"], {}).probe_agents
    assert Probing(chosen).agents == (b"GoogleHC/", b"kube-probe/")
    with pytest.raises(SystemExit):
        parse(["--node", "n", "--probe-agent", ""], {})
    assert "--probe-agent" in capsys.readouterr().err
