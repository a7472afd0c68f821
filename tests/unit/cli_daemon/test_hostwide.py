"""Host-wide connections: what is caught, whom that gets in the way of, and who answers DNS."""

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tproxy_cli.connect import kernel, resolved
from tproxy_cli.connect.layout import FAMILIES, VERDICTS, chains, split
from tproxy_cli.daemon.hostwide import conflicts
from tproxy_cli.daemon.hostwide.catching import Answering, within
from tproxy_cli.daemon.hostwide.connection import catchable, excluding
from tproxy_cli.daemon.hostwide.hostwide import parse_network

from tproxy.errors import InvalidError
from tproxy.model.flow import Address

NETWORKS = st.ip_addresses(v=4).flatmap(
    lambda address: st.integers(0, 32).map(lambda length: ipaddress.ip_network((address, length), strict=False))
)


def nets(*texts: str) -> list[Any]:
    return [ipaddress.ip_network(text) for text in texts]


def test_holes_are_cut_out() -> None:
    assert (
        excluding(nets("10.0.0.0/8", "fd00::/8"), nets("10.0.0.0/9", "fd00::1/128", "192.0.2.0/24"))[0]
        == nets("10.128.0.0/9")[0]
    )
    assert excluding(nets("10.1.0.0/16"), nets("10.0.0.0/8")) == []
    assert excluding(nets("10.1.0.0/16"), []) == nets("10.1.0.0/16")


@given(st.lists(NETWORKS, max_size=4), st.lists(NETWORKS, max_size=4), st.ip_addresses(v=4))
def test_an_address_is_left_if_it_was_in_and_is_in_no_hole(
    networks: list[Any], holes: list[Any], address: ipaddress.IPv4Address
) -> None:
    left = excluding(networks, holes)
    wanted = any(address in one for one in networks) and not any(address in one for one in holes)
    assert any(address in one for one in left) == wanted
    assert all(part.prefixlen for part in split(left))


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "x", "", "127.0.0.0/8", "ff00::/8", "fe80::/64"])
def test_what_is_no_network_to_be_caught(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_network(text)
    assert caught.value.hint


@pytest.mark.parametrize("value", [None, "10.0.0.1", [1], ["x"], ["127.0.0.1"], ["224.0.0.1"], ["10.0.0.1"] * 3])
def test_what_the_helper_does_not_take_for_networks(value: object) -> None:
    with pytest.raises(ValueError, match=r"not|does not"):
        kernel.networks(value, 2)


@pytest.mark.parametrize(
    "value", [None, [["a b", True]], [["-x;", True]], [["x", 1]], [["x"]], [["a" * 64, True]], [["x", True]] * 17]
)
def test_what_the_helper_does_not_take_for_domains(value: object) -> None:
    with pytest.raises(ValueError, match="not a"):
        resolved.domains(value)


def test_domains_are_as_they_were_said() -> None:
    assert resolved.domains([["cluster.local", True], ["_x.y", False]]) == [("cluster.local", True), ("_x.y", False)]


def test_a_link_local_resolver_is_left_alone() -> None:
    assert catchable(["10.0.0.1", "fe80::1%eth0", "fe80::1", "127.0.0.53"]) == ["10.0.0.1", "127.0.0.53"]


def test_who_answers_dns() -> None:
    everything, clusters = object(), object()
    answering = Answering(lambda: frozenset({"10.0.0.1"}), everything, clusters)  # type: ignore[arg-type]
    assert answering.at(Address("10.0.0.1", 53)) is everything
    assert answering.at(Address(resolved.SERVER, 53)) is clusters
    assert answering.at(Address("10.0.0.1", 80)) is None
    assert answering.at(Address("10.96.0.10", 53)) is None, "one of the cluster's own"


def test_who_is_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"10.96.0.0/16": "tun0", "10.0.0.0/8": "wg0", "172.17.0.0/16": "docker0"}
    routes = [(one, link) for text, link in held.items() for one in nets(text)]
    monkeypatch.setattr(conflicts, "_routes", lambda: iter(routes))
    found = conflicts.find(["10.96.0.7", "10.96.0.8", "10.1.1.1", "fd96::7", "192.0.2.1"])
    assert [(one.network, one.link, one.owner, one.count) for one in found] == [
        ("10.0.0.0/8", "wg0", "a VPN", 1),
        ("10.96.0.0/16", "tun0", "a VPN", 2),
    ]
    assert "a VPN (`tun0`) has a route to 10.96.0.0/16" in str(found[1])
    assert "--never-proxy 10.96.0.0/16" in found[1].remedy


def test_routes_of_this_machine_can_be_read() -> None:
    assert all(network.prefixlen for network, _ in conflicts._routes())


@pytest.mark.parametrize("ask", [True, False])
def test_verdicts_cannot_be_mistaken_for_each_other(ask: bool) -> None:
    marks: Callable[[Any], list[int]] = lambda chain: [rule.mark for rule in chain.rules if rule.mark]  # noqa: E731
    for family in FAMILIES:
        out, comes_in, end = chains(family, 1, 2, ask)
        assert len(set(marks(end))) == len(marks(end)) == (3 if ask else 0)
        assert all(mark & out.rules[1].set_mark for mark in VERDICTS.values()), "a verdict is still caught"
        assert [rule.target for rule in comes_in.rules].count("NFQUEUE") == ask
        assert out.rules[0].target == "RETURN", "our own sockets first of all"


def test_within() -> None:
    never = tuple(nets("10.0.0.0/8", "fd00::/8"))
    assert within("10.1.2.3", never)
    assert within("fd00::1", never)
    assert not within("11.0.0.1", never)
