"""What the kernel program reports, field by field."""

import re
import struct
from pathlib import Path

import pytest

from tproxy.trace import report
from tproxy.trace.report import Names

NAMES = Names({3: "NO_SOCKET"}, {1: "NO_SOCKET"})
SOURCE = Path(__file__).resolve().parents[3] / "bpf" / "trace" / "tcp.c"


def packed(
    kind: int, *, reason: int = 0, family: int = 2, local: bytes = b"\x0a\0\0\1", incoming: int = 0, protocol: int = 6
) -> bytes:
    times = struct.pack("=QQQ", 2_000_000_000, 5_000, 7_000_000)
    ends = local.ljust(16, b"\0") + b"\x0a\0\0\2".ljust(16, b"\0")
    rest = struct.pack("=HHBBBBBB6x", 80, 4321, family, protocol, kind, 8, 7, incoming)
    return times + struct.pack("=II", 77, reason) + ends + rest


def test_a_state() -> None:
    assert report.read(packed(report.STATE), NAMES, 100.0) == (
        77,
        {
            "event": "state",
            "time": 102.0,
            "local": "10.0.0.1:80",
            "remote": "10.0.0.2:4321",
            "from": "CLOSE_WAIT",
            "to": "CLOSE",
            "connectMicroseconds": 5,
            "openMicroseconds": 7000,
        },
    )


def test_a_drop() -> None:
    _, event = report.read(packed(report.DROP, reason=3, incoming=1, protocol=17), NAMES, 0)
    assert (event["reason"], event["direction"], event["protocol"]) == ("NO_SOCKET", "in", "UDP")
    _, event = report.read(packed(report.DROP, reason=99, protocol=1), NAMES, 0)
    assert (event["reason"], event["direction"], event["protocol"]) == ("reason 99", "out", "1")
    _, event = report.read(packed(report.DROP), NAMES, 0)
    assert event["reason"] == "", "older kernels give none"


def test_resets() -> None:
    _, event = report.read(packed(report.RESET_SENT, reason=1), NAMES, 0)
    assert (event["event"], event["reason"], event["state"]) == ("reset-sent", "NO_SOCKET", "CLOSE")
    _, event = report.read(packed(report.RESET_RECEIVED), NAMES, 0)
    assert (event["event"], event["state"]) == ("reset-received", "CLOSE")
    assert "reason" not in event


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (bytes(10) + b"\xff\xff\x0a\0\0\1", "10.0.0.1:80"),
        (b"\xfd" + bytes(14) + b"\1", "[fd00::1]:80"),
    ],
)
def test_addresses_of_ip6(address: bytes, text: str) -> None:
    assert report.read(packed(report.RETRANSMIT, family=10, local=address), NAMES, 0)[1]["local"] == text


def test_kinds_and_size_are_the_program_s() -> None:
    source = SOURCE.read_text()
    numbers = {name: int(number) for name, number in re.findall(r"#define KIND_(\w+) (\d)", source)}
    assert {name.lower().replace("_", "-"): number for name, number in numbers.items()} == {
        kind: number for number, kind in enumerate(report.KINDS)
    }
    body = source.partition("struct report {")[2].partition("};")[0]
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
    fields = re.findall(r"^\t(u\d+) \w+(?:\[(\d+)\])?;", body, re.MULTILINE)
    assert sum(sizes[kind] * int(count or 1) for kind, count in fields) == report.SIZE
