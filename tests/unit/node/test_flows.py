"""What is remembered of connections: bounded, and each once."""

import asyncio
import struct

import pytest
from tproxy_node import flows as module
from tproxy_node.flows import Flow, Flows, Request
from tproxy_node.plan import PodRef

from tproxy.model.figures import Outcome
from tproxy.model.flow import Address
from tproxy.steer.tcp_info import Carried

WEB = PodRef("shop", "web-1", "uid-1")
CLIENT, PORT = Address("10.0.0.9", 40000), Address("10.0.0.1", 8080)


def begin(flows: Flows, decision: str = "laptop", reason: str = "intercept") -> Flow:
    return flows.begin(WEB, CLIENT, PORT, decision, reason)


def test_a_connection_ends_once_with_what_was_said_first() -> None:
    flows = Flows()
    flow = begin(flows)
    assert flows.live == {flow}
    flow.end = "refused: port 3000"
    flow.over("client")
    flow.over("again")
    assert (flows.live, list(flows.recent), flow.end) == (set(), [flow], "refused: port 3000")
    assert flow.ended >= flow.began
    assert list(flows.latest("uid-1", 8080)) == [flow]
    assert list(flows.latest("uid-1", 8081)) == []


def test_what_moves_on_is_not_remembered_twice() -> None:
    flows = Flows()
    flow = begin(flows)
    flow.moved()
    flow.over("client")
    assert (flows.live, list(flows.recent)) == (set(), [])


def test_only_the_last_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    flows = Flows()
    for _ in range(10):
        begin(flows).over()
        flows.request(begin(flows), Outcome.PASSED, None, 200, 0.1)
    assert [len(flows.recent), len(list(flows.requests))] == [3, 3]
    assert [flow.number for flow in flows.recent] == [15, 17, 19]


def test_where_many_end_only_some_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASKED_PER_SECOND", 2)
    flows = Flows()
    asked = [flows.may_ask(now) for now in (5.0, 5.1, 5.2, 5.9, 6.1, 6.2, 6.3)]
    assert asked == [True, True, False, False, True, True, False]


def test_followers_hear_of_everything_or_how_much_they_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOWED", 4)

    async def scenario() -> None:
        flows = Flows()
        follower = flows.follow()
        flow = begin(flows)
        flows.request(flow, Outcome.MATCHED, None, 200, 0.1)
        flow.over("client")
        what, event = await follower.next()
        assert (what, event) == ("began", flow)
        what, event = await follower.next()
        assert what == "request"
        assert isinstance(event, Request)
        assert await follower.next() == ("ended", flow)
        for _ in range(6):
            begin(flows)
        assert follower.lost == 2
        follower.close()
        follower.close()
        begin(flows)
        assert follower.lost == 2

    asyncio.run(scenario())


def test_the_kernel_is_asked_while_it_lasts_and_remembered_afterwards() -> None:
    async def scenario() -> None:
        accepted: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                accepted.set_result(transport)

            def data_received(self, data: bytes) -> None:
                heard.set()

        heard = asyncio.Event()
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        flow = Flows().begin(WEB, CLIENT, PORT, "laptop", "intercept", None, await accepted)
        writer.write(b"x" * 1234)
        await heard.wait()
        measured = flow.measure()
        assert measured is not None
        assert (measured.received, measured.sent, measured.established) == (1234, 0, True)
        (await accepted).write(b"y" * 99)
        assert (answered := flow.measure()) is not None
        assert answered.sent == 99
        flow.over("client")
        (await accepted).close()
        measured = flow.measure()
        assert measured is not None
        assert measured.received == 1234
        writer.close()
        server.close()

    asyncio.run(scenario())


def test_what_is_under_way_has_been_sent() -> None:
    said = bytearray(216)
    said[0] = 4  # FIN_WAIT1
    struct.pack_into("=QQ", said, 120, 0, 77)  # acknowledged, received
    struct.pack_into("=QQ", said, 200, 1500, 500)  # sent, of that again
    measured = Carried.parse(bytes(said))
    assert (measured.sent, measured.received, measured.established) == (1000, 77, False)
    # An older kernel says less.
    struct.pack_into("=Q", said, 120, 42)
    assert Carried.parse(bytes(said[:136])).sent == 42
