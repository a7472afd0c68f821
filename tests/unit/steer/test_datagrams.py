"""What answers by UDP look like on the wire."""

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from tproxy.model.flow import Address
from tproxy.steer.datagrams import udp4

ADDRESSES = st.builds(Address, st.ip_addresses(v=4).map(str), st.integers(1, 65535))


def folded(data: bytes) -> int:
    """The sum of 16-bit words in ones' complement arithmetic, word by word (RFC 1071)."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + bytes(len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(ADDRESSES, ADDRESSES, st.binary(max_size=300))
def test_header_and_checksum(source: Address, destination: Address, payload: bytes) -> None:
    packet = udp4(source, destination, payload)
    assert packet[8:] == payload
    assert struct.unpack("!HHH", packet[:6]) == (source.port, destination.port, len(packet))
    pseudo = socket.inet_aton(source.host) + socket.inet_aton(destination.host)
    pseudo += struct.pack("!HH", socket.IPPROTO_UDP, len(packet))
    assert folded(pseudo + packet) == 0xFFFF
    assert packet[6:8] != bytes(2), "0 would say that there is none"


def test_a_sum_of_zero_is_sent_as_all_ones() -> None:
    source, destination = Address("0.0.0.1", 1), Address("0.0.0.2", 2)
    # What makes the sum of all else come to 0xFFFF.
    rest = 0xFFFF - folded(struct.pack("!HHHHHHHHHH", 0, 1, 0, 2, 17, 10, 1, 2, 10, 0))
    packet = udp4(source, destination, struct.pack("!H", rest))
    assert packet[6:8] == b"\xff\xff"
