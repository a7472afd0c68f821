"""Small servers of the laptop, for tests of what a run reaches."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.kernel.run_laptop import DEADLINE


@contextlib.contextmanager
def serving(family: int, kind: int, host: str, answer: bytes) -> Iterator[int]:
    """A server of the laptop that greets each client, or echoes each datagram, with `answer` in front; its port."""
    with socket.socket(family, kind) as server:
        server.bind((host, 0))
        if kind == socket.SOCK_STREAM:
            server.listen(64)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    if kind == socket.SOCK_STREAM:
                        client, _ = server.accept()
                        with client:
                            client.sendall(answer)
                    else:
                        payload, peer = server.recvfrom(65535)
                        if payload == b"end":
                            return
                        server.sendto(answer + payload, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            if kind == socket.SOCK_STREAM:
                server.shutdown(socket.SHUT_RDWR)
            else:
                server.sendto(b"end", server.getsockname())
            thread.join(DEADLINE)
