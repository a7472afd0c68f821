"""A small HTTP server for tests: says which pod it is and who asks, on IPv4 and IPv6.

/           the pod's name, the client's address, the User-Agent
/ready      200, or 503 while the file /tmp/<pod>.unready exists
/alive      200, or 503 while the file /tmp/<pod>.dead exists
/probes     the User-Agents and addresses that asked for /ready so far
/exit       ends the process with status 3
"""

import argparse
import os
import socket
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

POD = os.environ.get("POD", "?")
PROBES: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers everything with a line of text."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        status, text = 200, f"{POD} {self.client_address[0].removeprefix('::ffff:')} {self.headers['User-Agent']}\n"
        match self.path:
            case "/ready":
                PROBES.append(f"{self.headers['User-Agent']} {self.client_address[0].removeprefix('::ffff:')}")
                status = 503 if Path(f"/tmp/{POD}.unready").exists() else 200  # noqa: S108
            case "/alive":
                status = 503 if Path(f"/tmp/{POD}.dead").exists() else 200  # noqa: S108
            case "/probes":
                text = "\n".join(PROBES)
            case "/exit":
                os._exit(3)
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the log to what the tests look for."""


class Server(ThreadingHTTPServer):
    """Both address families on one socket."""

    address_family = socket.AF_INET6
    daemon_threads = True
    # Everybody who waited for a laptop that is gone comes at once.
    request_queue_size = 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls", metavar="FILE", help="certificate and key")
    options = parser.parse_args()
    print(f"{POD} listens on {options.port}", flush=True)
    server = Server(("::", options.port), Handler)
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls)
        # Handshakes in the threads, lest a client that says nothing keep the others waiting.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()
