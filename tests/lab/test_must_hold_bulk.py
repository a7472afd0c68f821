"""Much through the tunnel, both ways, unharmed."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator

import pytest

from tests.lab.many import payload
from tests.lab.scene import PORT, Scene

SIZE = int(os.environ.get("TPROXY_TEST_BULK_MIB", "256")) << 20
TIMEOUT_SECONDS = 60.0


@pytest.fixture
def client(scene: Scene) -> Iterator[socket.socket]:
    """A connection of the outside user's with an intercepted pod."""
    with (
        scene.intercepted(),
        scene.outside.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as sock,
    ):
        sock.settimeout(TIMEOUT_SECONDS)
        sock.connect((scene.address(), PORT))
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(1024).endswith(b"laptop\n")
        yield sock


def said(what: str, began: float) -> None:
    seconds = time.monotonic() - began
    print(f"{what} of {SIZE >> 20} MiB in {seconds:.1f} s, {SIZE / seconds / 1e6:.0f} MB/s, with both checksums")


def expected() -> str:
    checksum = hashlib.sha256()
    for block in payload(SIZE):
        checksum.update(block)
    return checksum.hexdigest()


def test_download(client: socket.socket) -> None:
    began = time.monotonic()
    client.sendall(f"BYTES {SIZE}\n".encode())
    checksum, left = hashlib.sha256(), SIZE
    buffer = memoryview(bytearray(1 << 20))
    while left:
        got = client.recv_into(buffer)
        assert got, f"{left} bytes are missing"
        checksum.update(buffer[:got])
        left -= got
    said("download", began)
    assert checksum.hexdigest() == expected()


def test_upload(client: socket.socket) -> None:
    began = time.monotonic()
    client.sendall(f"SUM {SIZE}\n".encode())
    for block in payload(SIZE):
        client.sendall(block)
    checksum = client.recv(1024).decode().strip()
    said("upload", began)
    assert checksum == expected()
