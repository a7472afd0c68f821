"""A daemon in the test's own process: a real unix socket, with the answers that the test wants."""

import json
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

Json = dict[str, Any]


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `condition` is true, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclass
class FakeDaemon:
    """Answers each path with its lines (JSON objects, bytes sent as they are, events to wait for) and remembers what
    it was asked."""

    answers: dict[str, list[Json | bytes | threading.Event]] = field(default_factory=dict)
    asked: list[tuple[str, Json]] = field(default_factory=list)
    hang: threading.Event = field(default_factory=threading.Event)
    """Set to let go requests for paths without an answer; they hang until then."""
    dropped: threading.Event = field(default_factory=threading.Event)
    """Set when a client went away from a request that hung."""

    def bodies(self, path: str) -> list[Json]:
        """What `path` was asked with."""
        return [body for asked, body in self.asked if asked == path]


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, fake: FakeDaemon) -> None:
        self.fake = fake
        super().__init__(path, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that only looks whether somebody listens, or goes away, is no error; all else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Keep stderr for the command under test."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake = self.server.fake
        fake.asked.append((self.path, body))
        try:
            self._answer(fake)
        except ConnectionError:  # it went away before it was told anything
            fake.dropped.set()

    def _answer(self, fake: FakeDaemon) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.path in fake.answers:
            for line in fake.answers[self.path]:
                if isinstance(line, threading.Event):
                    assert line.wait(10)
                    continue
                self._chunk(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        else:
            while not fake.hang.is_set():
                if self.connection.recv(1, socket.MSG_PEEK) == b"":
                    fake.dropped.set()
                    break
        self._chunk(b"")
        self.close_connection = True

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
