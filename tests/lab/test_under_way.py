"""What a client and the app have under way when their port is intercepted and left: it ends where it began."""

import asyncio

import pytest

from tests.lab.test_pools import PORT, Scene, scene

__all__ = ["scene"]


class Busy:
    """A connection to the app with something under way, made in the outside user's network."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def begun(cls, scene: Scene, first: bytes, until: bytes) -> "Busy":
        sock = await scene.outside.connect(scene.address, PORT)
        one = cls(*await asyncio.open_connection(sock=sock, limit=1 << 24))
        one.writer.write(first)
        await one.heard(until)
        return one

    async def heard(self, until: bytes) -> None:
        async with asyncio.timeout(10):
            await self.reader.readuntil(until)

    async def says(self, words: bytes, answer: bytes) -> None:
        self.writer.write(words)
        await self.heard(answer)


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: web\r\n\r\n".encode()


@pytest.mark.parametrize("intercepts", [2])
def test_what_is_under_way_ends_where_it_began(scene: Scene, intercepts: int) -> None:
    """A download, an event stream, a WebSocket and a transaction, through intercepting and leaving again and again."""
    pod = scene.pods()[0]["name"].encode()

    async def scenario() -> None:
        events = await Busy.begun(scene, get("/events"), b"data: 1\n\n")
        download = await Busy.begun(scene, get("/download"), b"\r\n\r\n")
        socket_ = await Busy.begun(scene, get("/ws"), b"\r\n\r\n")
        transaction = await Busy.begun(scene, b"BEGIN\n", pod + b" BEGIN\n")
        kept = await Busy.begun(scene, get("/"), pod + b" 0\n")
        for _ in range(intercepts):
            answer = await asyncio.to_thread(scene.intercept)
            assert [one["connections"] for one in answer["pods"]] == [5]
            assert "next request" in answer["pods"][0]["staying"]
            shown = await asyncio.to_thread(scene.tproxy, "status")
            assert "5 connections still with the app" in shown.stdout
            listed = await asyncio.to_thread(scene.tproxy, "list", "-n", scene.namespace)
            assert "5 connections still with the app" in listed.stderr
            await kept.says(get("/"), b"laptop 0\n")
            await socket_.says(b"\x81\x85abcdhello", b"\x81\x85abcdhello")
            await transaction.says(b"GET / HTTP/9.9 is a word of ours\n", pod + b" GET / HTTP/9.9 is a word of ours\n")
            await asyncio.to_thread(scene.lab.wait, lambda: scene.with_app() == 4, "a count of four")
            await asyncio.to_thread(scene.leave)
            await kept.says(get("/"), pod + b" 0\n")
            await kept.reader.read()  # it ends in order, and the client's next connection is the app's own
            kept = await Busy.begun(scene, get("/"), pod + b" 0\n")
        with scene.going_on():
            await events.heard(b"data: 2\n\n")
            async with asyncio.timeout(10):
                await download.reader.readexactly(8 << 20)
        await transaction.says(b"COMMIT\n", pod + b" COMMIT\n")
        for one in (events, download, socket_, transaction, kept):
            one.writer.close()

    asyncio.run(scenario())


def test_all_are_reset_or_kept_if_so_chosen(scene: Scene) -> None:
    pod = scene.pods()[0]["name"].encode()

    async def scenario() -> None:
        kept = await Busy.begun(scene, get("/"), pod + b" 0\n")
        answer = await asyncio.to_thread(scene.intercept, "--existing", "keep")
        assert answer["pods"][0]["staying"] == "kept there, as asked"
        await kept.says(get("/"), pod + b" 0\n")
        await asyncio.to_thread(scene.leave)
        answer = await asyncio.to_thread(scene.intercept, "--existing", "reset", "--drain", "1")
        with pytest.raises(ConnectionResetError):
            await kept.reader.read()
        assert answer["pods"][0]["connections"] == 0
        raw = await Busy.begun(scene, b"BEGIN\n", b"laptop BEGIN\n")
        await asyncio.to_thread(scene.leave)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(5):
                await raw.reader.read()
        kept.writer.close()
        raw.writer.close()

    asyncio.run(scenario())
