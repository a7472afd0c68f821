"""A relay that looks at nothing: what any process of Python with this event loop costs between a client and an app.

`blind.py PORT APP`: connections to PORT are the app's at 127.0.0.1:APP. A yardstick for `personal.py`.
"""

import asyncio
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of the two ends: what it reads the other writes."""

    def __init__(self, other: "Side | None" = None) -> None:
        self.other = other
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Joined to the other, if that is there, by its transport's own method."""
        self.transport = cast(asyncio.Transport, transport)
        if self.other is None:
            self.data_received = self.early.append  # type: ignore[method-assign]
            self.task = asyncio.get_running_loop().create_task(self.join())
        else:
            self.data_received = self.other.transport.write  # type: ignore[method-assign]
        self.transport.set_protocol(self)

    async def join(self) -> None:
        """Connect to the app."""
        app = Side(self)
        await asyncio.get_running_loop().create_connection(lambda: app, "127.0.0.1", int(sys.argv[2]))
        self.other = app
        app.transport.writelines(self.early)
        self.data_received = app.transport.write  # type: ignore[method-assign]
        self.transport.set_protocol(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """So does the other end."""
        if self.other is not None:
            self.other.transport.close()


async def serve() -> None:
    """Until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Side, "0.0.0.0", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
