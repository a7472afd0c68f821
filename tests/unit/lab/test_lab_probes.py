"""Probes as a kubelet sends them, against real servers."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tproxy.errors import InvalidError
from tproxy.lab.probes import Command, GrpcHealth, HttpGet, Probe, Prober, TcpConnect, Threshold, parse, request


def test_defaults_are_those_of_kubernetes() -> None:
    probe = parse({"httpGet": {"path": "healthz", "port": "http"}}, {"http": 8080})
    assert probe == Probe(HttpGet("", 8080, "/healthz", False, ()), 0, 10, 1, 1, 3)


def test_every_field_is_read() -> None:
    spec = {
        "tcpSocket": {"port": 5432, "host": "10.0.0.1"},
        "initialDelaySeconds": 3,
        "periodSeconds": 4,
        "timeoutSeconds": 5,
        "successThreshold": 6,
        "failureThreshold": 7,
    }
    assert parse(spec, {}) == Probe(TcpConnect("10.0.0.1", 5432), 3, 4, 5, 6, 7)
    assert parse({"exec": {"command": ["true"]}}, {}).check == Command(("true",))
    assert parse({"grpc": {"port": 9, "service": "x"}}, {}).check == GrpcHealth(9, "x")


@pytest.mark.parametrize(
    "spec", [{"grpc": {"port": "web"}}, {"sleep": {}}, {"httpGet": {"port": "web"}}, {"tcpSocket": {"port": 0}}]
)
def test_what_the_lab_does_not_know_is_said(spec: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        parse(spec, {"http": 80})


def test_the_request_is_a_kubelets() -> None:
    text = request(HttpGet("", 8080, "/x?y=1", False, (("X-Test", "1"),)), "10.244.1.2").decode()
    assert text == (
        "GET /x?y=1 HTTP/1.1\r\nHost: 10.244.1.2:8080\r\nUser-Agent: kube-probe/1.34\r\n"
        "Accept: */*\r\nConnection: close\r\nX-Test: 1\r\n\r\n"
    )


def test_a_probes_own_header_replaces_the_usual_one() -> None:
    text = request(HttpGet("fd24::1", 80, "/", False, (("host", "web"),)), "").decode()
    assert "host: web\r\n" in text
    assert "Host:" not in text


@pytest.mark.parametrize(
    ("healthy", "results", "states"),
    [
        (False, "YY", [False, True]),
        (False, "YNYY", [False, False, False, True]),
        (True, "NNN", [True, True, False]),
        (True, "NNYNNN", [True, True, True, True, True, False]),
    ],
)
def test_a_state_changes_only_after_enough_results_in_a_row(healthy: bool, results: str, states: list[bool]) -> None:
    threshold = Threshold(healthy, successes=2, failures=3)
    seen = []
    for result in results:
        before = threshold.healthy
        assert threshold.observe(result == "Y") == (threshold.healthy != before)
        seen.append(threshold.healthy)
    assert seen == states


class Here:
    """The test's own network namespace in place of a node's."""

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        return socket.socket(family, kind)


@contextmanager
def answering(text: bytes) -> Iterator[int]:
    """A server that says `text` to each client after its request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(text)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def failure(check: HttpGet | TcpConnect | Command, code: int = 0) -> str:
    async def execute(command: Sequence[str]) -> int:
        return code

    prober = Prober(Here(), "127.0.0.1", execute)  # type: ignore[arg-type]
    return asyncio.run(prober.failure(Probe(check, 0, 1, 1, 1, 1)))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", ""),
        (b"HTTP/1.1 503 Sorry\r\n\r\n", "HTTP probe failed with statuscode: 503"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"", "the answer is not HTTP"),
    ],
)
def test_http_answers(answer: bytes, expected: str) -> None:
    with answering(answer) as port:
        assert failure(HttpGet("", port, "/", False, ())) == expected


def test_a_handshake_is_enough_for_tcp() -> None:
    with answering(b"") as port:
        assert failure(TcpConnect("", port)) == ""
    assert "refused" in failure(TcpConnect("", port)).lower()


def test_the_exit_code_of_a_command_counts() -> None:
    assert failure(Command(("true",))) == ""
    assert failure(Command(("false",)), code=3) == "command exited with 3"


def test_silence_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert "no answer within 1 s" in failure(HttpGet("", listener.getsockname()[1], "/", False, ()))
