"""Python and the kernel program agree on the bytes in the maps."""

import json
import socket
import struct
import subprocess
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.steer import layout
from tproxy.steer.port import Counters, SteeredPort
from tproxy.steer.sk_lookup import OBJECT

Types = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def types() -> Types:
    """What the compiled program says of its types."""
    output = subprocess.run(
        ["bpftool", "--json", "btf", "dump", "file", OBJECT], capture_output=True, text=True, check=True
    ).stdout
    return {one["name"]: one for one in json.loads(output)["types"] if one["kind"] in ("STRUCT", "ENUM")}


def offsets(types: Types, name: str) -> dict[str, int]:
    """Each member's place, in bytes."""
    return {member["name"]: member["bits_offset"] // 8 for member in types[name]["members"]}


def test_port(types: Types) -> None:
    key = layout.port_key(SteeredPort(8080))
    at = offsets(types, "tproxy_port")
    assert types["tproxy_port"]["size"] == len(key)
    assert struct.unpack_from("=H", key, at["number"]) == (8080,)
    assert struct.unpack_from("=H", key, at["protocol"]) == (socket.IPPROTO_TCP,)


def test_source(types: Types) -> None:
    at = offsets(types, "tproxy_source")
    key = layout.source_key("10.1.2.3", 0x1234)
    assert types["tproxy_source"]["size"] == len(key)
    assert key[at["address"] :][:16] == bytes([10, 1, 2, 3]) + bytes(12)
    assert key[at["port"] :][:2] == b"\x12\x34"
    assert struct.unpack_from("=H", key, at["family"]) == (socket.AF_INET,)
    key = layout.source_key("fd77::2", 1)
    assert key[at["address"] :][:16] == socket.inet_pton(socket.AF_INET6, "fd77::2")
    assert struct.unpack_from("=H", key, at["family"]) == (socket.AF_INET6,)


def test_counters(types: Types) -> None:
    assert types["tproxy_counters"]["size"] == layout.COUNTERS_SIZE
    assert offsets(types, "tproxy_counters") == {
        "steered": 0,
        "own": 8,
        "lease_expired": 16,
        "no_listener": 24,
        "passed": 32,
    }


def test_listeners(types: Types) -> None:
    values = {one["name"]: one["val"] for one in types["tproxy_listener"]["values"]}
    assert layout.listener_key(socket.AF_INET) == struct.pack("=I", values["TPROXY_LISTENER_IP4"])
    assert layout.listener_key(socket.AF_INET6) == struct.pack("=I", values["TPROXY_LISTENER_IP6"])


def test_names_survive_the_kernel() -> None:
    """It cuts names after 15 characters."""
    for name in (
        layout.PROGRAM,
        layout.PORTS_MAP,
        layout.OWN_MAP,
        layout.PASSED_MAP,
        layout.LISTENERS_MAP,
        layout.LEASE_MAP,
    ):
        assert name.startswith("tproxy")
        assert len(name) <= 15


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_mapped_sources_are_what_they_map(address: object, port: int) -> None:
    assert layout.source_key(f"::ffff:{address}", port) == layout.source_key(str(address), port)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(1, 65535), st.integers(1, 65535))
def test_sources_have_different_keys(one: object, other: object, port: int, other_port: int) -> None:
    same = layout.source_key(str(one), port) == layout.source_key(str(other), other_port)
    mapped = {str(getattr(address, "ipv4_mapped", None) or address) for address in (one, other)}
    assert same == (len(mapped) == 1 and port == other_port)


def test_zone_is_no_part_of_a_source() -> None:
    assert layout.source_key("fe80::1%eth0", 1) == layout.source_key("fe80::1", 1)


def test_counters_of_all_processors() -> None:
    values = [struct.pack("=QQQQQ", *range(cpu, cpu + 5)) for cpu in (0, 10, 2**40)]
    assert layout.counters(values) == Counters(*(10 + 2**40 + 3 * column for column in range(5)))


@given(address=st.ip_addresses(), port=st.integers(1, 65535))
def test_who_is_let_through_to_which_port(address: IPv4Address | IPv6Address, port: int) -> None:
    key = layout.passed_key(str(address), port)
    assert (key[:16], key[18:]) == (layout.source_key(str(address), 1)[:16], layout.source_key(str(address), 1)[18:])
    assert struct.unpack("=H", key[16:18]) == (port,)
