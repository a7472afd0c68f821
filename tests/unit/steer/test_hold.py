"""Python and the program that holds requests back agree on their bytes."""

import json
import struct
import subprocess
from typing import Any

import pytest

from tproxy.steer import hold

Types = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def types() -> Types:
    command = ["bpftool", "--json", "btf", "dump", "file", str(hold.OBJECT)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {one["name"]: one for one in json.loads(output)["types"] if one["kind"] == "STRUCT"}


def offsets(types: Types, name: str) -> dict[str, int]:
    return {member["name"]: member["bits_offset"] // 8 for member in types[name]["members"]}


def test_pieces(types: Types) -> None:
    at = offsets(types, "tproxy_piece")
    sample = bytearray(types["tproxy_piece"]["size"])
    for place, (name, size) in enumerate({"cookie": 8, "sequence": 4, "acknowledged": 4, "size": 4, "more": 4}.items()):
        sample[at[name] : at[name] + size] = (place + 1).to_bytes(size, "little")
    assert hold.PIECE.unpack_from(sample) == (1, 2, 3, 4, 5)
    assert at["bytes"] == hold.PIECE.size


def test_watched(types: Types) -> None:
    value = hold.WATCHED.pack(1, 2, 3, 4)
    assert len(value) == types["tproxy_watched"]["size"]
    at = offsets(types, "tproxy_watched")
    assert struct.unpack_from("=Q", value, at["held_ns"]) == (1,)
    assert [struct.unpack_from("=I", value, at[name]) for name in ("passed", "heard", "answer")] == [(2,), (3,), (4,)]


def test_names_are_short_enough_for_the_kernel_and_ours() -> None:
    for name in (hold.PROGRAM, hold.WATCHED_MAP, hold.REQUESTS_MAP, hold.LEASE_MAP):
        assert name.startswith("tproxy_")
        assert len(name) <= 15
