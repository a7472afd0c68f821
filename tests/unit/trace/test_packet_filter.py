"""Which packets are captured, by running the program as the kernel would."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.trace import packet_filter
from tproxy.trace.packet_filter import Instruction

ETHER, LOOPBACK, TUNNEL = 1, 772, 768
IN, OUT = 0, 4


def run(program: list[Instruction], ethertype: int, packet: bytes, hardware: int = ETHER, kind: int = IN) -> int:
    """What classic BPF makes of a packet; reading beyond its end rejects it."""
    extra = {0: ethertype, 4: kind, 28: hardware}
    a = x = at = 0

    def load(offset: int, size: int) -> int:
        if offset >= 0xFFFFF000:
            return extra[offset - 0xFFFFF000]
        start = offset - 0xFFF00000
        if not 0 <= start <= len(packet) - size:
            raise IndexError
        return int.from_bytes(packet[start : start + size], "big")

    try:
        while True:
            code, yes, no, value = program[at]
            at += 1
            if code in (0x30, 0x28):
                a = load(value, 1 if code == 0x30 else 2)
            elif code == 0x48:
                a = load(value + x, 2)
            elif code == 0xB1:
                x = (load(value, 1) & 15) * 4
            elif code == 0x15:
                at += yes if a == value else no
            elif code == 0x45:
                at += yes if a & value else no
            else:
                assert code == 0x06
                return value
    except IndexError:
        return 0


def ip4(source: int, destination: int, protocol: int = 6, options: int = 0, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH8s", 0x45 + options, 0, 40, 0, fragment, 64, protocol, 0, b"\x0a\0\0\1\x0a\0\0\2")
    return head + bytes(options * 4) + struct.pack("!HH16x", source, destination)


def ip6(source: int, destination: int, protocol: int = 6) -> bytes:
    return struct.pack("!IHBB32xHH16x", 6 << 28, 20, protocol, 64, source, destination)


PORTS = st.integers(1, 65535)


@given(PORTS, PORTS, PORTS, st.sampled_from([6, 17, 132]), st.integers(0, 10))
def test_by_port(port: int, source: int, destination: int, protocol: int, words: int) -> None:
    program = packet_filter.build(port, 100)
    wanted = 100 if port in (source, destination) else 0
    assert run(program, 0x0800, ip4(source, destination, protocol, words)) == wanted
    assert run(program, 0x86DD, ip6(source, destination, protocol)) == wanted


@pytest.mark.parametrize(("source", "destination"), [(80, 9), (9, 80)])
def test_either_end(source: int, destination: int) -> None:
    program = packet_filter.build(80, 65535)
    assert run(program, 0x0800, ip4(source, destination)) == 65535
    assert run(program, 0x86DD, ip6(source, destination)) == 65535


def test_what_has_no_ports() -> None:
    program = packet_filter.build(80, 100)
    assert run(program, 0x0806, ip4(80, 80)) == 0, "ARP"
    assert run(program, 0x0800, ip4(80, 80, protocol=1)) == 0, "ICMP"
    assert run(program, 0x0800, ip4(80, 80, fragment=0x2001)) == 0, "a later fragment"
    assert run(program, 0x0800, ip4(80, 80, fragment=0x2000)) == 100, "the first fragment"
    assert run(program, 0x0800, b"\x45") == 0, "cut off"


def test_all() -> None:
    program = packet_filter.build(0, 64)
    assert run(program, 0x0806, b"") == 64
    assert run(program, 0x0800, ip4(1, 2), TUNNEL, OUT) == 64


def test_once_on_the_loopback() -> None:
    for program in (packet_filter.build(0, 64), packet_filter.build(80, 64)):
        assert run(program, 0x0800, ip4(80, 9), LOOPBACK, OUT) == 0
        assert run(program, 0x0800, ip4(80, 9), LOOPBACK, IN) == 64
        assert run(program, 0x0800, ip4(80, 9), ETHER, OUT) == 64


@given(st.binary(max_size=100), st.sampled_from([0x0800, 0x86DD, 0x0806]), PORTS)
def test_any_bytes(packet: bytes, ethertype: int, port: int) -> None:
    assert run(packet_filter.build(port, 7), ethertype, packet) in (0, 7)


def test_packed() -> None:
    program = packet_filter.build(80, 100)
    assert len(packet_filter.packed(program)) == 8 * len(program)
    assert packet_filter.packed([(6, 0, 0, 0xFFFFFFFF)]) == b"\x06\0\0\0\xff\xff\xff\xff"
