"""The handshake: one HELLO, one WELCOME, a version both speak, and a token that shows nowhere."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.rpc.v1 import tunnel_pb2 as pb
from tproxy.tunnel import hello, wire
from tproxy.tunnel.hello import HandshakeError, Hello, VersionMismatchError, Welcome

TOKEN = bytes(range(32))
GOOD = Hello("shop", "alice-laptop", TOKEN)


def test_hello_and_welcome_survive() -> None:
    assert hello.decode_hello(hello.encode_hello(GOOD)) == GOOD
    welcome = Welcome(hello.PROTOCOL_VERSION, "node1")
    assert hello.decode_welcome(hello.encode_welcome(welcome)) == welcome


def test_the_token_is_not_part_of_repr() -> None:
    assert "token" not in repr(GOOD)
    assert repr(TOKEN) not in repr(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"token": b""},
        {"token": bytes(31)},
        {"token": bytes(33)},
        {"namespace": ""},
        {"session": ""},
        {"namespace": "n" * 254},
        {"software": "s" * 65},
        {"version": 0},
        {"version": 1, "min_version": 2},
    ],
    ids=str,
)
def test_a_hello_that_is_none(change: dict[str, object]) -> None:
    with pytest.raises(HandshakeError):
        hello.decode_hello(hello.encode_hello(dataclasses.replace(GOOD, **change)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "batch",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        wire.ping_frame(1),
        wire.fin_frame(1),
        hello.encode_welcome(Welcome(1, "n")),
        hello.encode_hello(GOOD) + wire.ping_frame(1),
        wire.ping_frame(1) + hello.encode_hello(GOOD),
        pb.Batch(frames=[pb.Frame(conn=1, hello=pb.Hello(version=1))]).SerializeToString(),
        hello.encode_hello(GOOD) + bytes(5000),
    ],
    ids=repr,
)
def test_anything_but_one_hello_is_refused(batch: bytes) -> None:
    with pytest.raises(HandshakeError):
        hello.decode_hello(batch)


def test_a_long_first_batch_is_not_even_parsed() -> None:
    with pytest.raises(HandshakeError, match="first batch is too long"):
        hello.decode_hello(hello.encode_hello(dataclasses.replace(GOOD, software="s" * hello.MAX_HELLO_BYTES)))


@given(st.binary(max_size=300))
def test_garbage_is_refused(batch: bytes) -> None:
    for decode in (hello.decode_hello, hello.decode_welcome):
        with pytest.raises(HandshakeError):
            decode(batch)


@pytest.mark.parametrize(
    ("lowest", "highest", "chosen"), [(1, 1, 1), (1, 9, 1)], ids=["the same", "a newer laptop that knows ours"]
)
def test_the_highest_common_version_is_spoken(lowest: int, highest: int, chosen: int) -> None:
    assert hello.negotiate(dataclasses.replace(GOOD, min_version=lowest, version=highest)) == chosen


def test_without_a_common_version_the_older_side_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VersionMismatchError, match="upgrade tproxy on the node"):
        hello.negotiate(dataclasses.replace(GOOD, min_version=2, version=3))
    monkeypatch.setattr(hello, "PROTOCOL_VERSION", 5)
    monkeypatch.setattr(hello, "MIN_PROTOCOL_VERSION", 4)
    with pytest.raises(VersionMismatchError, match="upgrade tproxy on the laptop"):
        hello.negotiate(GOOD)


def test_a_welcome_must_choose_what_was_offered() -> None:
    with pytest.raises(HandshakeError):
        hello.decode_welcome(hello.encode_welcome(Welcome(hello.PROTOCOL_VERSION + 1, "node1")))
