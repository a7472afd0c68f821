"""Which packets are captured, decided in the kernel: a classic BPF program for a packet socket. Pure.

It reads from the network header on, so that it does not matter what stands before it.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_LD_BYTE, _LD_HALF, _LD_HALF_AT_X = 0x30, 0x28, 0x48
_LDX_HEADER_LENGTH = 0xB1  # X = four times the lower half of the byte at K
_JUMP_EQUAL, _JUMP_SET = 0x15, 0x45
_RETURN = 0x06

_EXTRA = 0xFFFFF000  # SKF_AD_OFF: what the kernel knows about a packet
_PROTOCOL, _PACKET_TYPE, _HARDWARE_TYPE = _EXTRA, _EXTRA + 4, _EXTRA + 28
_NETWORK = 0xFFF00000  # SKF_NET_OFF
_OUTGOING, _LOOPBACK = 4, 772
_IP4, _IP6 = 0x0800, 0x86DD
_WITH_PORTS = (6, 17, 132)  # TCP, UDP, SCTP


@dataclass(frozen=True, slots=True)
class _Step:
    """An instruction; `yes` and `no` are labels of where it goes on, empty for the next one."""

    code: int
    value: int
    yes: str = ""
    no: str = ""
    label: str = ""


Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, value: `struct sock_filter`."""


def build(port: int, snap_length: int) -> list[Instruction]:
    """The program: packets with `port` at either end (0: all), each once, of which `snap_length` bytes are kept."""
    steps = [
        # What goes out on the loopback comes in again at once.
        _Step(_LD_HALF, _HARDWARE_TYPE),
        _Step(_JUMP_EQUAL, _LOOPBACK, "", "begin"),
        _Step(_LD_BYTE, _PACKET_TYPE),
        _Step(_JUMP_EQUAL, _OUTGOING, "reject", "begin"),
        *(_of_port(port) if port else [_Step(_RETURN, snap_length, label="begin")]),
        _Step(_RETURN, snap_length, label="accept"),
        _Step(_RETURN, 0, label="reject"),
    ]
    return list(_assembled(steps))


def _of_port(port: int) -> Iterator[_Step]:
    yield _Step(_LD_HALF, _PROTOCOL, label="begin")
    yield _Step(_JUMP_EQUAL, _IP4, "ip4", "")
    yield _Step(_JUMP_EQUAL, _IP6, "ip6", "reject")
    yield _Step(_LD_BYTE, _NETWORK + 9, label="ip4")
    yield from _one_of(_WITH_PORTS, "ports4")
    # Of a packet in pieces only the first has the ports.
    yield _Step(_LD_HALF, _NETWORK + 6, label="ports4")
    yield _Step(_JUMP_SET, 0x1FFF, "reject", "")
    yield _Step(_LDX_HEADER_LENGTH, _NETWORK)
    yield _Step(_LD_HALF_AT_X, _NETWORK)
    yield _Step(_JUMP_EQUAL, port, "accept", "")
    yield _Step(_LD_HALF_AT_X, _NETWORK + 2)
    yield _Step(_JUMP_EQUAL, port, "accept", "reject")
    yield _Step(_LD_BYTE, _NETWORK + 6, label="ip6")
    yield from _one_of(_WITH_PORTS, "ports6")
    yield _Step(_LD_HALF, _NETWORK + 40, label="ports6")
    yield _Step(_JUMP_EQUAL, port, "accept", "")
    yield _Step(_LD_HALF, _NETWORK + 42)
    yield _Step(_JUMP_EQUAL, port, "accept", "reject")


def _one_of(values: Sequence[int], then: str) -> Iterator[_Step]:
    for value in values:
        yield _Step(_JUMP_EQUAL, value, then, "reject" if value == values[-1] else "")


def _assembled(steps: Sequence[_Step]) -> Iterator[Instruction]:
    labels: Mapping[str, int] = {step.label: index for index, step in enumerate(steps) if step.label}
    for index, step in enumerate(steps):
        yes, no = (labels[to] - index - 1 if to else 0 for to in (step.yes, step.no))
        yield step.code, yes, no, step.value


def packed(program: Sequence[Instruction]) -> bytes:
    """An array of `struct sock_filter`."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
