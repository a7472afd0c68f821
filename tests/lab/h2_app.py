"""An HTTP server for tests that speaks HTTP/2 (by prior knowledge and by upgrade, through python-h2) and HTTP/1.1.

It answers with its name, the path and the SHA-256 of what it was sent; of `/bytes/N` with N bytes.
"""

import argparse
import asyncio
import hashlib
import os

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated

POD = os.environ.get("POD", "?")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def answer(path: str, sent: bytes) -> bytes:
    """What is said to a request."""
    if path.startswith("/bytes/"):
        return b"x" * int(path.removeprefix("/bytes/"))
    return f"{POD} {path} {hashlib.sha256(sent).hexdigest()}\n".encode()


class Http2Server:
    """One connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._writer = writer
        self._paths: dict[int, str] = {}
        self._bodies: dict[int, bytearray] = {}
        self._waiting: dict[int, bytes] = {}

    def upgraded(self, path: str) -> None:
        """Stream 1 has been asked for in HTTP/1.1."""
        self._respond(1, path, b"")

    async def serve(self, reader: asyncio.StreamReader, first: bytes) -> None:
        """Until the connection ends."""
        data = first
        while True:
            for event in self.h2.receive_data(data):
                if isinstance(event, RequestReceived):
                    self._paths[event.stream_id] = dict(event.headers)[":path"]
                    self._bodies[event.stream_id] = bytearray()
                elif isinstance(event, DataReceived):
                    self._bodies[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded) and event.stream_id in self._paths:
                    stream = event.stream_id
                    self._respond(stream, self._paths.pop(stream), bytes(self._bodies.pop(stream)))
                elif isinstance(event, StreamReset):
                    self._waiting.pop(event.stream_id, None)
                elif isinstance(event, WindowUpdated):
                    for stream in list(self._waiting):
                        self._send(stream)
            self._writer.write(self.h2.data_to_send())
            await self._writer.drain()
            data = await reader.read(65536)
            if not data:
                return

    def _respond(self, stream: int, path: str, sent: bytes) -> None:
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", "text/plain")])
        self._waiting[stream] = answer(path, sent)
        self._send(stream)

    def _send(self, stream: int) -> None:
        body = self._waiting[stream]
        while body and (window := self.h2.local_flow_control_window(stream)) > 0:
            size = min(window, 16384, len(body))
            self.h2.send_data(stream, body[:size])
            body = body[size:]
        self._waiting[stream] = body
        if not body:
            del self._waiting[stream]
            self.h2.end_stream(stream)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, whatever it speaks."""
    try:
        first = await reader.readuntil(b"\r\n\r\n")
        if PREFACE.startswith(first):
            server = Http2Server(writer)
            server.h2.initiate_connection()
            await server.serve(reader, first)
            return
        line, *fields = first.decode().split("\r\n")
        path = line.split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if headers.get("upgrade") == "h2c":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            server = Http2Server(writer)
            server.h2.initiate_upgrade_connection(headers["http2-settings"].encode())
            server.upgraded(path)
            await server.serve(reader, b"")
            return
        body = answer(path, await reader.readexactly(int(headers.get("content-length", "0"))))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port: int) -> None:
    """Serve."""
    server = await asyncio.start_server(serve, None, port)
    print(f"{POD} listens on {port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(main(parser.parse_args().port))
