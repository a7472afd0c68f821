"""Messages of the kernel's packet queue, right ones and any others."""

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from tproxy.capture import queue
from tproxy.capture.layout import Mark
from tproxy.capture.queue import Asked
from tproxy.model.flow import Address
from tproxy.netns.netlink import attribute, attributes

ports = st.integers(1, 65535)


def packet(source: str, sport: int, destination: str, dport: int, options: bytes = b"") -> bytes:
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    tcp = struct.pack("!HH", sport, dport) + bytes(16)
    if len(addresses) == 8:
        words = 5 + len(options) // 4
        return bytes((0x40 | words,)) + bytes(8) + b"\x06" + bytes(2) + addresses + options + tcp
    extension = bytes((6, len(options) // 8 - 1)) + options[2:] if options else b""
    return b"\x60" + bytes(5) + bytes((60 if options else 6, 64)) + addresses + extension + tcp


def message(number: int, payload: bytes) -> bytes:
    body = struct.pack("!BBH", 2, 0, 1) + attribute(1, struct.pack("!IHB", number, 0x0800, 0)) + attribute(10, payload)
    return struct.pack("=IHHII", 16 + len(body), 3 << 8, 0, 0, 0) + body


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


@given(number=st.integers(0, 2**32 - 1), sport=ports, dport=ports, words=st.integers(0, 10))
def test_a_syn_by_ip4(number: int, sport: int, dport: int, words: int) -> None:
    one = message(number, packet("10.1.2.3", sport, "10.4.5.6", dport, bytes(words * 4)))
    expected = Asked(number, Address("10.1.2.3", sport), Address("10.4.5.6", dport))
    assert list(queue.asked(one)) == [expected]
    assert list(queue.asked(padded(one) + one)) == [expected, expected]


@given(sport=ports, dport=ports, words=st.integers(0, 4))
def test_a_syn_by_ip6(sport: int, dport: int, words: int) -> None:
    one = message(7, packet("fd00::1", sport, "2001:db8::2", dport, bytes(words * 8)))
    assert list(queue.asked(one)) == [Asked(7, Address("fd00::1", sport), Address("2001:db8::2", dport))]


@given(st.binary(max_size=200))
def test_any_bytes_are_passed_over(data: bytes) -> None:
    list(queue.asked(data))
    list(queue.errors(data))
    list(queue.asked(message(1, data)))


def test_a_verdict_carries_mark_and_number() -> None:
    sent = queue.verdict(9, Mark.REFUSED)
    found = dict(attributes(sent[20:]))
    assert struct.unpack("!II", found[2]) == (4, 9)  # NF_REPEAT
    assert struct.unpack("!I", found[3]) == (Mark.REFUSED,)
    dropped = dict(attributes(queue.verdict(9, None)[20:]))
    assert struct.unpack("!II", dropped[2]) == (0, 9)
    assert 3 not in dropped


def test_binding_is_three_messages_with_answers() -> None:
    sent, lengths = queue.bind(), []
    while sent:
        lengths.append(struct.unpack_from("=I", sent)[0])
        sent = sent[lengths[-1] + (-lengths[-1] % 4) :]
    assert len(lengths) == 3
