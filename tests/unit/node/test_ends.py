"""Who is told what the app says: event loops remember the methods of the protocol that they were given."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from tproxy_node.personal.ends import AppEnd


class Remembering:
    """A transport that remembers, as uvloop's do, from before its protocol is told that it is connected."""

    def __init__(self, protocol: Any) -> None:
        self.write: Callable[[bytes], None] = lambda data: None
        self.set_protocol(protocol)

    def set_protocol(self, protocol: Any) -> None:
        self.says: Callable[[bytes], None] = protocol.data_received

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Gone a little later."""


def heard_by(router: str, heard: list[tuple[str, bytes]]) -> Any:
    return SimpleNamespace(upstream_data=lambda _, data: heard.append((router, data)), upstream_lost=lambda *_: None)


def test_whose_turn_it_is_hears_the_app() -> None:
    async def scenario() -> None:
        heard: list[tuple[str, bytes]] = []
        hop = SimpleNamespace(router=heard_by("first", heard), app_ended=lambda end: None)
        end = AppEnd(cast(Any, hop))
        end.listen(hop.router)
        transport = Remembering(end)
        end.listen(heard_by("second", heard))  # the client was quicker
        end.connection_made(cast(asyncio.Transport, transport))
        transport.says(b"hello")
        end.listen(heard_by("third", heard))
        transport.says(b"again")
        end.close()
        end.listen(heard_by("fourth", heard))
        transport.says(b"to nobody")
        assert heard == [("second", b"hello"), ("third", b"again")]

    asyncio.run(scenario())


def test_one_that_nobody_listens_to_for_good_asks_whose_turn_it_is() -> None:
    async def scenario() -> None:
        heard: list[tuple[str, bytes]] = []
        hop = SimpleNamespace(router=heard_by("first", heard), app_ended=lambda end: None)
        end = AppEnd(cast(Any, hop))
        transport = Remembering(end)
        end.connection_made(cast(asyncio.Transport, transport))
        transport.says(b"hello")
        hop.router = heard_by("second", heard)
        transport.says(b"again")
        assert heard == [("first", b"hello"), ("second", b"again")]

    asyncio.run(scenario())
