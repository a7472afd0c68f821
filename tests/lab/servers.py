"""Servers for tests of outbound traffic: HTTP at 8080 on both families, at 8081 on IPv4 alone, UDP echo at 7007.

/           the pod's name and the client's address
/bulk?N     N bytes
"""

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

POD = os.environ.get("POD", "?")


class Handler(BaseHTTPRequestHandler):
    """Answers everything with a line of text."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        path, _, size = self.path.partition("?")
        body = f"{POD} {self.client_address[0].removeprefix('::ffff:')}\n".encode()
        length = int(size) if path == "/bulk" else len(body)
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if path == "/bulk":
            block = bytes(range(256)) * 4096
            for at in range(0, length, len(block)):
                self.wfile.write(block[: length - at])
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the log to what the tests look for."""


class Both(ThreadingHTTPServer):
    """Both address families on one socket."""

    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 1024


class Four(ThreadingHTTPServer):
    """IPv4 alone."""

    daemon_threads = True


def echo() -> None:
    """Send datagrams back."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::", 7007))
        while True:
            sock.sendto(*sock.recvfrom(65536))


if __name__ == "__main__":
    threading.Thread(target=echo, daemon=True).start()
    threading.Thread(target=Four(("0.0.0.0", 8081), Handler).serve_forever, daemon=True).start()
    Both(("::", 8080), Handler).serve_forever()
