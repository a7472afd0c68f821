"""What it costs that the node daemon remembers connections: the relay with and without, in alternating rounds.

Everything is in one process, on the loopback: clients that connect, ask once and close, the real relay with a tunnel
of queues, and a server. Processor time for each connection is what counts: it depends little on what else goes on.
Requests on a connection that stays cost nothing more, so there is nothing to measure.
Run: `.venv/bin/python bench/flows.py`.
"""

import argparse
import asyncio
import gc
import socket
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "node-daemon")]

from tproxy_node.desired import Route  # noqa: E402
from tproxy_node.flows import Flow, Flows  # noqa: E402
from tproxy_node.plan import PodRef  # noqa: E402
from tproxy_node.relay import Limits, PodRelay, Relay  # noqa: E402

from tests.unit.node.streams import tunnel  # noqa: E402
from tproxy.tasks import Tasks  # noqa: E402
from tproxy.tunnel.bridge import connect_bridge  # noqa: E402

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Forgetful(Flows):
    """Remembers nothing: the one object it hands out says it has ended already."""

    def __init__(self) -> None:
        super().__init__()
        self._one: Flow | None = None

    def begin(self, pod: Any, client: Any, destination: Any, *rest: Any, **more: Any) -> Flow:
        """No new one."""
        if self._one is None:
            self._one = Flow(self, 0, pod, client, destination, "", "", None, None, "TCP")
            self._one.ended = 1.0
        self._one.client, self._one.destination = client, destination
        return self._one


class Loopback:
    """An attachment that steers nothing: its listener is what clients connect to."""

    shows_clients = False

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        listener.setblocking(False)
        self.listeners = [listener]
        self.port = int(listener.getsockname()[1])

    def set_ports(self, ports: Iterable[object]) -> None:
        """As told."""


class App(asyncio.Protocol):
    """Answers each request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


class Client(asyncio.Protocol):
    """Asks once."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)


async def clients(port: int, count: int) -> None:
    """`count` connections, one after the other."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        _, client = await loop.create_connection(Client, "127.0.0.1", port)
        await client.over


async def measure(rounds: int, count: int, side_by_side: int) -> None:
    """Print microseconds of processor time for each connection."""
    node, laptop = tunnel()
    tasks = Tasks("bench")
    app = await asyncio.get_running_loop().create_server(App, "127.0.0.1", 0)
    address = app.sockets[0].getsockname()
    laptop.on_open = lambda conn: connect_bridge(conn, [address], tasks)
    relay = Relay(lambda session: node, Limits())
    attachment = Loopback()
    routes = {attachment.port: Route("uid", "session", "bench/web")}
    pod = PodRelay(relay, PodRef("bench", "web-1", "uid"), attachment, routes)  # type: ignore[arg-type]
    await pod.serve()
    figures: dict[str, list[float]] = {"without": [], "with": []}
    remembering = Flows()
    gc.collect()
    gc.freeze()  # as the daemon does
    for number in range(rounds + 1):
        for name in ("without", "with") if number % 2 else ("with", "without"):
            flows = Forgetful() if name == "without" else remembering
            relay.flows = flows
            began = time.process_time()
            await asyncio.gather(*(clients(attachment.port, count // side_by_side) for _ in range(side_by_side)))
            if number:  # the first round warms up
                figures[name].append((time.process_time() - began) / count * 1e6)
    without, with_ = (statistics.median(figures[name]) for name in ("without", "with"))
    ratios = [b / a - 1 for a, b in zip(figures["without"], figures["with"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"without {without:.1f} us, with {with_:.1f} us for each connection; round by round {middle:+.1%}"
        f" (half of the rounds {low:+.1%} to {high:+.1%})"
    )
    await tasks.close()


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--connections", type=int, default=400, help="in each round")
    parser.add_argument("--side-by-side", type=int, default=16)
    chosen = parser.parse_args()
    uvloop.run(measure(chosen.rounds, chosen.connections, chosen.side_by_side))


if __name__ == "__main__":
    main()
