"""The little that Edgy Corp's three services share: an HTTP server, an HTTP client, reload. Standard library only."""

import http.client
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn

UPSTREAM_TIMEOUT_SECONDS = 5


class UpstreamError(Exception):
    """Another service could not be asked."""


@dataclass(frozen=True)
class Request:
    """A GET request."""

    path: str
    headers: Mapping[str, str]

    def forwarded(self) -> dict[str, str]:
        """The headers that travel on with calls made for this request."""
        return {
            name: value
            for name, value in self.headers.items()
            if name.lower().startswith("x-") or name.lower() == "baggage"
        }


@dataclass(frozen=True)
class Response:
    """What goes back."""

    body: bytes
    content_type: str
    status: int = 200

    @classmethod
    def json(cls, value: Any, status: int = 200) -> "Response":
        """A JSON answer."""
        return cls(json.dumps(value).encode() + b"\n", "application/json", status)

    @classmethod
    def not_found(cls, request: Request) -> "Response":
        """There is nothing at this path."""
        return cls.json({"error": f"nothing at {request.path}"}, status=404)


def fetch_json(url: str, headers: Mapping[str, str]) -> Any:
    """GET `url`. Raises UpstreamError when there is no answer, or no good one."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=dict(headers)),
            timeout=UPSTREAM_TIMEOUT_SECONDS,
        ) as answer:
            return json.load(answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UpstreamError(f"no answer from {url}: {error}") from error


class _Server(ThreadingHTTPServer):
    """Dual-stack, so that the service answers whatever family its clients use."""

    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 1024

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(answer: Callable[[Request], Response], port: int) -> None:
    """Answer GET requests on `port` until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            response = answer(Request(self.path, dict(self.headers.items())))
            self.send_response(response.status)
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

    with _Server(("::", port), Handler) as server:
        print(f"serving on port {port}", flush=True)
        server.serve_forever()


def with_reload(path: str) -> None:
    """From now on, start this program afresh whenever the file at `path` changes."""
    seen = os.stat(path).st_mtime_ns

    def watch() -> NoReturn:
        while os.stat(path).st_mtime_ns == seen:
            time.sleep(0.1)
        print("source changed: starting afresh", flush=True)
        # Listening sockets close on exec, so the port is free for the new program at once.
        os.execv(sys.executable, [sys.executable, *sys.argv])

    threading.Thread(target=watch, name="reload", daemon=True).start()
