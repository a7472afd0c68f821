"""A client for tests that keeps many requests of HTTP/2 under way: `h2_asking.py HOST PORT SECONDS [USER...]`.

Requests are GETs whose x-user header is each USER in turn, - for none. As clients do, it asks again on another
connection what a GOAWAY says was not looked at, or what was refused (RFC 9113, 6.8 and 8.7). Prints a line once every
USER has had answers, and at the end a JSON object: for each USER how many were answered by whom (the first word of the
answer), as `!…` how many failed how; and `goaways`.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter

import hpack
from hyperframe import frame as frames

STREAMS = 16
UNDER_WAY = 50
"""Answers of each user's."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REFUSED_STREAM = 0x7


class Client:
    """One person's browser, or one service's channel."""

    def __init__(self, host: str, port: int, users: list[str]) -> None:
        self._address = host, port
        self._users = itertools.cycle(users)
        self.seen: dict[str, Counter[str]] = {user: Counter() for user in users}
        self.goaways = 0
        self._under_way = False

    async def run(self, until: float) -> None:
        """Ask until then, and until everything has been answered."""
        while time.monotonic() < until:
            await self._connection(until)

    async def _connection(self, until: float) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        self._writer = writer
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._numbers = itertools.count(1, 2)
        self._open: dict[int, str] = {}
        self._said: dict[int, list[str]] = {}  # the status, then the body
        self._leaving = False
        writer.write(PREFACE)
        self._send(frames.SettingsFrame())
        try:
            while True:
                while not self._leaving and len(self._open) < STREAMS and time.monotonic() < until:
                    self._ask()
                if not self._open:
                    return
                one, size = frames.Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
                one.parse_body(memoryview(await reader.readexactly(size)))
                self._on_frame(one)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
        for user in self._open.values():
            self.seen[user]["!the connection ended"] += 1

    def _send(self, one: frames.Frame) -> None:
        self._writer.write(one.serialize())

    def _ask(self) -> None:
        user, number = next(self._users), next(self._numbers)
        headers = [(":method", "GET"), (":scheme", "http"), (":authority", "web"), (":path", f"/{number}")]
        block = self._encoder.encode(headers + ([] if user == "-" else [("x-user", user)]))
        self._send(frames.HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]))
        self._open[number], self._said[number] = user, []

    def _on_frame(self, one: frames.Frame) -> None:
        number = one.stream_id
        match one:
            case frames.SettingsFrame() if "ACK" not in one.flags:
                if (size := one.settings.get(frames.SettingsFrame.HEADER_TABLE_SIZE)) is not None:
                    self._encoder.header_table_size = size
                self._send(frames.SettingsFrame(flags=["ACK"]))
            case frames.PingFrame() if "ACK" not in one.flags:
                self._send(frames.PingFrame(opaque_data=one.opaque_data, flags=["ACK"]))
            case frames.HeadersFrame():
                self._said[number].append(dict(self._decoder.decode(one.data))[":status"])
            case frames.DataFrame(data=bytes(data)):
                if size := one.flow_controlled_length:
                    self._send(frames.WindowUpdateFrame(0, window_increment=size))
                self._said[number].append(data.decode())
            case frames.RstStreamFrame(error_code=code) if user := self._open.pop(number, ""):
                if code != REFUSED_STREAM:
                    self.seen[user][f"!reset {code}"] += 1
            case frames.GoAwayFrame(last_stream_id=last):
                self.goaways += 1
                self._leaving = True
                for beyond in [beyond for beyond in self._open if beyond > last]:
                    del self._open[beyond]
        if "END_STREAM" in one.flags and (user := self._open.pop(number, "")):
            status, *body = self._said.pop(number)
            words = "".join(body).split()
            self.seen[user][words[0] if status == "200" else f"!{status} {' '.join(words)}"] += 1
            if not self._under_way and all(seen.total() >= UNDER_WAY for seen in self.seen.values()):
                self._under_way = True
                print("under way", flush=True)


async def main() -> None:
    """Print what was seen."""
    host, port, seconds, *users = sys.argv[1:]
    client = Client(host, int(port), users)
    await client.run(time.monotonic() + float(seconds))
    print(json.dumps({**client.seen, "goaways": client.goaways}))


if __name__ == "__main__":
    asyncio.run(main())
