"""What an open connection waits for; an idle one waits for nothing."""

import struct

import pytest
from tproxy_node.debug.waiting import InTunnel, Waiting, waits_for

from tproxy.steer.tcp_info import Carried


def carried(received: int = 0, sent: int = 0, received_ago: int = 0, sent_ago: int = 0) -> Carried:
    """As the kernel says it, in bytes and milliseconds."""
    said = bytearray(216)
    struct.pack_into("=III", said, 44, sent_ago, 0, received_ago)
    struct.pack_into("=QQ", said, 120, sent, received)
    struct.pack_into("=QQ", said, 200, sent, 0)
    return Carried.parse(bytes(said))


IDLE = carried(100, 100, received_ago=9000, sent_ago=8990)
ASKED = carried(100, 100, received_ago=4000, sent_ago=9000)
ASKED_FIRST = carried(100, 0, received_ago=4000, sent_ago=0)
JUST_ASKED = carried(100, 100, received_ago=100, sent_ago=9000)
LIVE, SILENT = InTunnel(True, 0, 5, 0.5), InTunnel(True, 0, 5, 3.5)


@pytest.mark.parametrize(
    ("said", "tunnel", "waits"),
    [
        (IDLE, LIVE, None),
        (IDLE, SILENT, None),
        (IDLE, None, None),
        (None, None, None),
        (carried(), LIVE, None),
        (JUST_ASKED, LIVE, None),
        (ASKED, LIVE, Waiting("answer", 4.0)),
        (ASKED_FIRST, None, Waiting("answer", 4.0)),
        (ASKED, SILENT, Waiting("laptop", 3.5)),
        (JUST_ASKED, SILENT, Waiting("laptop", 3.5)),
        (IDLE, InTunnel(True, 7, 5, 3.5), Waiting("laptop", 3.5)),
        (ASKED, InTunnel(True, 7, 5, 0.5), Waiting("tunnel")),
        (ASKED, InTunnel(True, 7, 0, 0.5), Waiting("local-app")),
        (ASKED, InTunnel(False, 7, 0, 0.5), Waiting("laptop", 60.0)),
        (None, InTunnel(False, 0, 5, 3.5), Waiting("laptop", 3.5)),
    ],
)
def test_what_it_waits_for(said: Carried | None, tunnel: InTunnel | None, waits: Waiting | None) -> None:
    assert waits_for(60.0, said, tunnel) == waits
