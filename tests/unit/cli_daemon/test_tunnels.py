"""Tunnels: back-off, reconnecting, waking up, and letting go of nodes that are no longer needed."""

import asyncio
from collections.abc import Callable

import pytest
from tproxy_cli.daemon import tunnels
from tproxy_cli.daemon.tunnels import Backoff, Tunnels

from tests.unit.tunnel.joined import Recorder
from tests.unit.tunnel.live import REQUEST
from tproxy.errors import ClusterError
from tproxy.tunnel.endpoint import Endpoint


class _Silent:
    """A stream on which nothing ever comes."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    async def each(self, receive: Callable[[bytes], None]) -> None:
        await self._ended.wait()

    async def write(self, batch: bytes) -> None:
        """Gone."""

    def abort(self, reason: str) -> None:
        self._ended.set()


class _Link:
    def __init__(self, rtt: float = 0.0, address: str = "") -> None:
        self.endpoint = Endpoint(_Silent(), laptop=True)
        self.endpoint._mux.rtt = rtt
        self.address = address
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class _Nodes:
    """Dials what the test says."""

    def __init__(self, rtt: float = 0.0, address: str = "") -> None:
        self.links: list[_Link] = []
        self.rtt, self.address = rtt, address
        self.failures = 0
        self.tries = 0

    async def dial(self, node: str) -> _Link:
        self.tries += 1
        if self.failures:
            self.failures -= 1
            raise ClusterError(f"{node} is not there")
        self.links.append(_Link(self.rtt, self.address))
        return self.links[-1]


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_backoff_doubles_up_to_its_limit() -> None:
    backoff = Backoff(longest=1.0, pick=lambda low, high: high)
    assert [backoff.next() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.next() == 0.1


def test_backoff_jitters_downwards() -> None:
    backoff = Backoff()
    assert all(delay / 2 <= backoff.next() <= delay for delay in (0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0))


def test_connects_again_and_says_why_not() -> None:
    async def run() -> None:
        nodes = _Nodes()
        nodes.failures = 2
        errors = []
        all_tunnels = Tunnels(nodes.dial, lambda: errors.extend(view.error for view in all_tunnels.views()))
        all_tunnels.want(["node1"])
        await _until(lambda: nodes.links and all_tunnels.views()[0].state == "connected")
        assert "node1 is not there" in errors
        assert nodes.tries == 3

        nodes.links[0].endpoint.close("cut")
        await _until(lambda: len(nodes.links) == 2 and all_tunnels.views()[0].state == "connected")
        assert nodes.links[0].closed
        await all_tunnels.close()
        assert nodes.links[1].closed
        assert not nodes.links[1].endpoint.alive

    asyncio.run(run())


def test_closed_is_closed() -> None:
    async def run() -> None:
        nodes = _Nodes()
        all_tunnels = Tunnels(nodes.dial, lambda: None)
        await all_tunnels.close()
        all_tunnels.want(["node1"])
        assert all_tunnels.views() == []

    asyncio.run(run())


def test_wanting_twice_connects_once() -> None:
    async def run() -> None:
        nodes = _Nodes()
        all_tunnels = Tunnels(nodes.dial, lambda: None)
        all_tunnels.want(["node1", "node1"])
        all_tunnels.want(["node1", "node2"])
        await _until(lambda: all(view.state == "connected" for view in all_tunnels.views()))
        assert nodes.tries == 2
        await all_tunnels.close()

    asyncio.run(run())


def test_waking_up_connects_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "FIRST_DELAY_SECONDS", 3600.0)
    monkeypatch.setattr(tunnels, "LONGEST_DELAY_SECONDS", 3600.0)

    async def run() -> None:
        nodes = _Nodes()
        nodes.failures = 1
        all_tunnels = Tunnels(nodes.dial, lambda: None)
        all_tunnels.want(["node1"])
        await _until(lambda: all_tunnels.views()[0].error)
        all_tunnels.wake()
        await _until(lambda: len(nodes.links) == 1)
        all_tunnels.wake()  # the link that stood before the sleep is given up too
        await _until(lambda: len(nodes.links) == 2)
        await all_tunnels.close()

    asyncio.run(run())


def test_what_is_not_wanted_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        nodes = _Nodes()
        all_tunnels = Tunnels(nodes.dial, lambda: None)
        all_tunnels.want(["node1"])
        await _until(lambda: nodes.links)
        await all_tunnels.drop_unwanted()
        assert len(all_tunnels.views()) == 1
        monkeypatch.setattr(tunnels, "LINGER_SECONDS", -1.0)
        await all_tunnels.drop_unwanted()
        assert all_tunnels.views() == []
        assert nodes.links[0].closed

    asyncio.run(run())


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "LOOK_SECONDS", 0.01)


@pytest.mark.usefixtures("quick_looks")
def test_a_long_link_gets_several_streams() -> None:
    """One that ends leaves the others; what is new goes to the one with the fewest connections."""

    async def run() -> None:
        nodes = _Nodes(rtt=0.05)
        all_tunnels = Tunnels(nodes.dial, lambda: None)
        all_tunnels.want(["node1"])
        await _until(lambda: len(nodes.links) == tunnels.STREAMS)
        [view] = all_tunnels.views()
        assert set(view.endpoints) == {link.endpoint for link in nodes.links}
        first = nodes.links[0].endpoint
        first.open(REQUEST, Recorder())
        assert all_tunnels.lightest("node1") not in (None, first)
        assert all_tunnels.connections == 1
        assert all_tunnels.lightest("node2") is None

        nodes.failures = 1000
        first.close("lost")
        await _until(lambda: len(all_tunnels.views()[0].endpoints) == tunnels.STREAMS - 1)
        assert all_tunnels.views()[0].state == "connected"
        for link in nodes.links:
            link.endpoint.close("lost")
        await _until(lambda: all_tunnels.views()[0].state == "lost")
        assert all_tunnels.views()[0].endpoints == ()
        await all_tunnels.close()
        assert all(link.closed for link in nodes.links)

    asyncio.run(run())


@pytest.mark.usefixtures("quick_looks")
def test_after_sleep_a_link_may_be_another() -> None:
    async def run() -> None:
        nodes = _Nodes(rtt=0.05)
        all_tunnels = Tunnels(nodes.dial, lambda: None)
        all_tunnels.want(["node1"])
        await _until(lambda: len(nodes.links) == tunnels.STREAMS)
        nodes.rtt = 0.001
        all_tunnels.wake()
        await _until(lambda: sum(link.closed for link in nodes.links) == tunnels.STREAMS)
        await asyncio.sleep(0.2)
        assert len(nodes.links) == tunnels.STREAMS + 1
        assert len(all_tunnels.views()[0].endpoints) == 1
        await all_tunnels.close()

    asyncio.run(run())


@pytest.mark.parametrize(("rtt", "address"), [(0.001, ""), (0.0, ""), (0.05, "10.0.0.1:4772")])
@pytest.mark.usefixtures("quick_looks")
def test_short_links_and_direct_ones_have_one_stream(rtt: float, address: str) -> None:
    async def run() -> None:
        nodes = _Nodes(rtt, address)
        all_tunnels = Tunnels(nodes.dial, lambda: None)
        all_tunnels.want(["node1"])
        await asyncio.sleep(0.2)
        assert len(nodes.links) == 1
        await all_tunnels.close()

    asyncio.run(run())
