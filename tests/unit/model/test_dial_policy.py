"""The matrix of what a laptop may dial."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.model.dial_policy import DENIED, POLICIES, DialPolicy, Where, plain

NODE_IP = ipaddress.ip_address("192.168.7.11")
NODE_IP6 = ipaddress.ip_address("fd99::11")
API = ipaddress.ip_address("10.96.0.1")
RESOLVER = ipaddress.ip_address("169.254.20.10")
WHERE = Where(frozenset({NODE_IP, NODE_IP6}), frozenset({API, ipaddress.ip_address("192.168.7.1")}))
NOBODY: frozenset[ipaddress.IPv4Address | ipaddress.IPv6Address] = frozenset()

FREE = [
    "10.96.0.11",
    "10.244.2.7",
    "fd24:2::7",
    "8.8.8.8",
    "2606:4700::1111",
    "192.168.7.12",
    "100.64.0.9",
    "2001:db8::1",
]
FORBIDDEN = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "127.0.0.1": "loopback",
    "127.255.0.3": "loopback",
    "::1": "loopback",
    "169.254.169.254": "metadata",
    "fd00:ec2::254": "metadata",
    "100.100.100.200": "metadata",
    "168.63.129.16": "metadata",
    "169.254.1.1": "link-local",
    "169.254.20.10": "link-local",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "224.0.0.1": "multicast",
    "ff02::fb": "multicast",
    "255.255.255.255": "broadcast",
    "240.0.0.1": "broadcast",
    str(NODE_IP): "node",
    str(NODE_IP6): "node",
    str(API): "api-server",
    "192.168.7.1": "api-server",
    # The same in disguise.
    "::ffff:127.0.0.1": "loopback",
    "::ffff:169.254.169.254": "metadata",
    "::ffff:192.168.7.11": "node",
    "::ffff:0:10.96.0.1": "api-server",
    "::169.254.169.254": "metadata",
    "64:ff9b::169.254.169.254": "metadata",
    "64:ff9b:1::127.0.0.1": "loopback",
    "2002:a9fe:a9fe::1": "metadata",
    "2002:7f00:1::": "loopback",
}


def verdict(text: str, port: int = 80, policy: DialPolicy | None = None) -> str:
    return (policy or DialPolicy()).denies(ipaddress.ip_address(text), port, WHERE, frozenset({RESOLVER}))


@pytest.mark.parametrize("address", FREE)
def test_what_pods_talk_to_is_free(address: str) -> None:
    assert verdict(address) == ""


@pytest.mark.parametrize(("address", "policy"), FORBIDDEN.items())
def test_what_is_denied_and_by_which_policy(address: str, policy: str) -> None:
    assert verdict(address) == policy
    assert policy in POLICIES


def test_the_pods_own_resolvers_are_free_at_port_53_alone() -> None:
    assert verdict(str(RESOLVER), 53) == ""
    assert verdict(f"::ffff:{RESOLVER}", 53) == ""
    assert verdict(str(RESOLVER), 80) == "link-local"
    assert verdict("169.254.20.11", 53) == "link-local"


def test_an_administrator_may_allow_more() -> None:
    wider = DialPolicy(allowed=(ipaddress.ip_network("169.254.1.0/24"), ipaddress.ip_network("10.96.0.1/32")))
    assert verdict("169.254.1.1", policy=wider) == ""
    assert verdict("::ffff:169.254.1.1", policy=wider) == ""
    assert verdict("10.96.0.1", policy=wider) == ""
    assert verdict("169.254.169.254", policy=wider) == "metadata"
    nodes = DialPolicy(allow_nodes=True)
    assert verdict(str(NODE_IP), policy=nodes) == ""
    assert verdict(str(API), policy=nodes) == "api-server"
    both = Where(WHERE.nodes, WHERE.api_server | {NODE_IP})
    assert nodes.denies(NODE_IP, 6443, both, NOBODY) == "api-server", "it runs on a node"


@pytest.mark.parametrize("text", ["127.1", "0x7f000001", "2130706433", "localhost", "web", "010.0.0.1", ""])
def test_what_only_c_libraries_call_numeric_is_a_name(text: str) -> None:
    assert plain(text) is None


def test_mapped_addresses_are_dialled_as_what_they_are() -> None:
    assert str(plain("::ffff:10.0.0.1")) == "10.0.0.1"
    assert str(plain("fe80::1%eth0")) == "fe80::1"


ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@given(ADDRESSES, st.integers(0, 65535))
def test_what_is_in_no_rule_is_free_and_the_rest_is_named(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    found = DialPolicy().denies(address, port, WHERE, NOBODY)
    listed = any(address in network for _, networks in DENIED for network in networks)
    assert found in ("", *POLICIES)
    if listed or address in WHERE.nodes or address in WHERE.api_server:
        assert found


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:", "::", "64:ff9b::", "::ffff:0:"]))
def test_a_disguise_changes_nothing(address: ipaddress.IPv4Address, prefix: str) -> None:
    bare = DialPolicy().denies(address, 80, WHERE, NOBODY)
    disguised = ipaddress.ip_address(f"{prefix}{address}")
    if int(disguised) > 1:
        assert DialPolicy().denies(disguised, 80, WHERE, NOBODY) == bare
