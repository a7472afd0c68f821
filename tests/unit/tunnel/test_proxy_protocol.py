"""The PROXY protocol's header, read back by a parser written from the specification."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.model.flow import Address
from tproxy.tunnel.proxy_protocol import Version, header

PORTS = st.integers(1, 65535)
FOUR = st.builds(Address, st.ip_addresses(v=4).map(str), PORTS)
SIX = st.builds(Address, st.ip_addresses(v=6).map(str), PORTS)


def read(data: bytes) -> tuple[Address, Address] | None:
    """Client and destination, None for unknown; strict."""
    if data.startswith(b"PROXY"):
        assert len(data) <= 107
        assert data.endswith(b"\r\n")
        words = data[:-2].decode("ascii").split(" ")
        if words == ["PROXY", "UNKNOWN"]:
            return None
        _, family, source, destination, source_port, destination_port = words
        for host in (source, destination):
            assert ipaddress.ip_address(host).version == {"TCP4": 4, "TCP6": 6}[family]
        for port in (source_port, destination_port):
            assert port == str(int(port))
        return Address(source, int(source_port)), Address(destination, int(destination_port))
    assert data[:12] == bytes.fromhex("0D0A0D0A000D0A515549540A")
    command, family, length = struct.unpack("!BBH", data[12:16])
    assert command == 0x21
    assert length == len(data) - 16
    if family == 0:
        return None
    size = {0x11: 4, 0x21: 16}[family]
    assert length == 2 * size + 4
    hosts = [str(ipaddress.ip_address(data[at : at + size])) for at in (16, 16 + size)]
    ports = struct.unpack("!HH", data[-4:])
    return Address(hosts[0], ports[0]), Address(hosts[1], ports[1])


@pytest.mark.parametrize("version", ["v1", "v2"])
@given(ends=st.one_of(st.tuples(FOUR, FOUR), st.tuples(SIX, SIX)))
def test_read_back(version: Version, ends: tuple[Address, Address]) -> None:
    assert read(header(version, *ends)) == ends


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_unknown(version: Version) -> None:
    assert read(header(version, None, Address("10.0.0.1", 80))) is None
    assert read(header(version, Address("fd00::1", 1), Address("10.0.0.1", 80))) is None


def test_as_in_the_specification() -> None:
    ends = Address("192.168.0.1", 56324), Address("192.168.0.11", 443)
    assert header("v1", *ends) == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
