"""Watchers that do not read: they cost a bounded amount of memory, and nobody else anything."""

import contextlib
import itertools
import json
import socket
import time
from collections.abc import Iterator

import pytest

from tproxy.kube.port import CONFIGMAPS
from tproxy.lab.api import watching
from tproxy.lab.api.store import Store

from .conftest import HISTORY, Server

PAYLOAD = "x" * 20_000
ROUNDS = 100
BURST = HISTORY // 2
STORM_BYTES = ROUNDS * BURST * len(PAYLOAD)


@contextlib.contextmanager
def watcher(server: Server, receive_buffer: int) -> Iterator[socket.socket]:
    """A watch of all ConfigMaps, of which nothing has been read but the headers."""
    sock = socket.socket()
    with sock:
        sock.settimeout(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", server.port))
        path = "/api/v1/configmaps?watch=1&allowWatchBookmarks=true&resourceVersion=1"
        sock.sendall(f"GET {path} HTTP/1.0\r\nAuthorization: Bearer admin-token\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
        assert b"200 OK" in head
        yield sock


def storm(store: Store, number: int) -> None:
    for index in range(BURST):
        store.patch(CONFIGMAPS, "c", {"data": {"payload": PAYLOAD, "number": f"{number}/{index}"}})


def test_a_slow_watcher_is_dropped_and_a_fast_one_misses_nothing(server: Server) -> None:
    server.call(lambda store: store.create(CONFIGMAPS, {"metadata": {"name": "c"}}))
    with watcher(server, 4096) as slow, watcher(server, 1 << 20) as fast:
        lines = fast.makefile("rb")
        assert json.loads(lines.readline())["type"] == "ADDED"
        for number in range(ROUNDS):
            server.call(lambda store, number=number: storm(store, number))
            for index in range(BURST):
                event = json.loads(lines.readline())
                assert event["object"]["data"]["number"] == f"{number}/{index}"
        received = b""
        while data := slow.recv(1 << 20):
            received += data
        lines.close()
    assert len(received) < STORM_BYTES / 4
    last = json.loads(received.splitlines()[-1])
    assert (last["type"], last["object"]["code"], last["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_a_watcher_that_never_reads_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "STALLED_SECONDS", 0.2)
    server.call(lambda store: store.create(CONFIGMAPS, {"metadata": {"name": "c"}}))
    with watcher(server, 4096) as stuck:
        over = time.monotonic() + 2
        for number in itertools.takewhile(lambda _: time.monotonic() < over, itertools.count()):
            server.call(lambda store, number=number: storm(store, number))
        received = b""
        with contextlib.suppress(ConnectionResetError):  # which may overtake what is still in the socket
            while data := stuck.recv(1 << 20):
                received += data
    # Had it been left alone, it would learn now that it is too late.
    assert b'"code": 410' not in received
