"""Port-forward against a raw WebSocket server, which has bad manners."""

import asyncio
from pathlib import Path

import pytest

from tests.unit.kube.forwards import PORT, PORTS, Run, frame, raw
from tests.unit.kube.server import until
from tproxy.kube import portforward


def test_what_comes_in_one_piece_with_the_head_is_not_lost(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with raw(tmp_path, PORTS, frame(2, b"\x00banner")) as (_, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.readexactly(6) == b"banner"
            writer.close()

    run(main())


def test_port_numbers_and_payload_may_share_messages(tmp_path: Path, run: Run) -> None:
    number = PORT.to_bytes(2, "little")
    pieces = frame(2, b"\x00" + number[:1]) + frame(2, b"\x00" + number[1:] + b"banner")

    async def main() -> None:
        async with raw(tmp_path, pieces) as (_, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.readexactly(6) == b"banner"
            writer.close()

    run(main())


def test_pings_are_answered(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with raw(tmp_path, PORTS, frame(9, b"abc")) as (_, path, got):
            _, writer = await asyncio.open_unix_connection(path)
            await until(lambda: bool(got))
            answer = b"".join(got)
            assert answer[:2] == b"\x8a\x83"
            assert bytes(a ^ b for a, b in zip(answer[6:], answer[2:5], strict=True)) == b"abc"
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (frame(1, b"\x00text"), "unexpected opcode 1"),
        (frame(2, b"\x07x"), "channel 7 was not asked for"),
        (b"\xff" * 100, "reserved bits"),
    ],
)
def test_nonsense_ends_the_connection(tmp_path: Path, part: bytes, says: str, run: Run) -> None:
    async def main() -> None:
        async with raw(tmp_path, PORTS, part) as (forward, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            assert forward.error is not None
            assert says in forward.error.message
            assert "sent nonsense on port 4770 of pod shop/node" in forward.error.message
            writer.close()

    run(main())


def test_the_other_ends_close_is_answered_and_ends_the_connection(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async with raw(tmp_path, PORTS, frame(2, b"\x00bye"), frame(8, b"\x03\xe8")) as (_, path, got):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b"bye"
            await until(lambda: b"".join(got)[:1] == b"\x88")
            writer.close()

    run(main())


def test_a_server_that_never_answers_our_close(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "_CLOSE_SECONDS", 0.05)

    async def main() -> None:
        async with raw(tmp_path, PORTS) as (forward, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write_eof()
            assert await reader.read() == b""
            await until(lambda: not forward._links)
            writer.close()

    run(main())
