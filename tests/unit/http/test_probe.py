"""Health checks are told from other connections by their first bytes, whatever those are."""

import ssl
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tproxy.http.client_hello import names_server
from tproxy.http.probe import MAX_HEAD, Verdict, agents, classify

AGENTS = agents(["kube-probe/", "GoogleHC/"])
PROBE = b"GET /ready HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\n\r\n"


def hello(name: str | None) -> bytes:
    """What a TLS client sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("from_node", [False, True])
@pytest.mark.parametrize(
    "first",
    [
        PROBE,
        PROBE.replace(b"User-Agent: kube-probe/1.34", b"USER-agent:\t kube-probe/ \t"),
        PROBE.replace(b"kube-probe/1.34", b"GoogleHC/1.0"),
        PROBE.replace(b"GET", b"HEAD").replace(b"HTTP/1.1", b"HTTP/1.0"),
        PROBE + b"more",
    ],
)
def test_probes(first: bytes, from_node: bool) -> None:
    assert classify(first, AGENTS, from_node) is Verdict.PROBE


@pytest.mark.parametrize("from_node", [False, True])
@pytest.mark.parametrize(
    "first",
    [
        PROBE.replace(b"kube-probe", b"curl"),
        PROBE.replace(b"kube-probe", b"Kube-Probe"),
        PROBE.replace(b"kube-probe", b"x kube-probe"),
        PROBE.replace(b"User-Agent", b"X-User-Agent"),
        PROBE.replace(b"User-Agent: kube-probe/1.34\r\n", b""),
        PROBE.replace(b"HTTP/1.1", b"HTTP/2.0"),
        PROBE.replace(b"GET /ready", b"GET  /ready"),
        PROBE[:-1],
        PROBE.replace(b"Accept: */*", b"X: " + b"x" * MAX_HEAD),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + PROBE,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
    ],
)
def test_others(first: bytes, from_node: bool) -> None:
    assert classify(first, AGENTS, from_node) is Verdict.OTHER


def test_without_agents_no_request_is_a_probe() -> None:
    assert classify(PROBE, (), True) is Verdict.OTHER


def test_tls_by_node_and_name() -> None:
    nameless, named = hello(None), hello("web.example")
    assert classify(nameless, AGENTS, True) is Verdict.PROBE
    assert classify(named, AGENTS, True) is Verdict.OTHER
    assert classify(nameless, AGENTS, False) is Verdict.OTHER


@given(at=st.integers(1, 10_000), named=st.booleans())
def test_an_unfinished_hello_waits_for_its_end(at: int, named: bool) -> None:
    whole = hello("web.example" if named else None)
    part = whole[: at % len(whole)]
    if part:
        assert classify(part, AGENTS, True) is Verdict.UNFINISHED
    assert classify(part, AGENTS, False) is Verdict.OTHER


def test_a_hello_without_extensions_names_nobody() -> None:
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\0\x2f" + b"\1\0"
    record = b"\x01" + len(body).to_bytes(3, "big") + body
    assert names_server(b"\x16\x03\x01" + len(record).to_bytes(2, "big") + record) is False


@given(first=st.binary(max_size=600), from_node=st.booleans())
@example(first=b"\x16\x03\x01\xff\xff\x01", from_node=True)
@example(first=b"\x16\x03\x01\x00\x00", from_node=True)
def test_any_bytes_get_a_verdict(first: bytes, from_node: bool) -> None:
    assert classify(first, AGENTS, from_node) in Verdict
    assert classify(b"\x16\x03\x01" + first, AGENTS, from_node) in Verdict


@given(at=st.integers(0, 1000), value=st.integers(0, 255))
def test_a_damaged_hello_gets_a_verdict(at: int, value: int) -> None:
    damaged = bytearray(hello(None))
    damaged[at % len(damaged)] = value
    assert classify(bytes(damaged), AGENTS, True) in Verdict


@given(cut=st.integers(0, len(PROBE) - 1))
def test_a_part_of_a_request_is_no_probe(cut: int) -> None:
    assert classify(PROBE[:cut], AGENTS, True) is Verdict.OTHER


@pytest.mark.parametrize("unit", [b"a: b\r\n", b"GET ", b"\r\n", b": ", b"User-Agent:\r\n"])
def test_large_input_takes_no_longer(unit: bytes) -> None:
    """The limit on what is looked at makes megabytes as cheap as kilobytes."""
    first = b"GET / HTTP/1.1\r\n" + unit * (1_000_000 // len(unit)) + b"\r\n\r\n"
    began = time.process_time()
    for _ in range(20):
        classify(first, AGENTS, True)
    assert time.process_time() - began < 0.5
