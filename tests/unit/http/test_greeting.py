"""Greeting an HTTP/2 client, and getting out of its way, by h2's own reading of the protocol."""

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.http.greeting import OUR_SETTINGS, PREFACE, DropAck, Greeting, are_settings

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"), (":authority", "a")]


def client() -> h2.connection.H2Connection:
    one = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    one.initiate_connection()
    return one


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def events_of(events: list[h2.events.Event], kind: type) -> list[h2.events.Event]:
    return [one for one in events if isinstance(one, kind)]


@given(size=st.integers(1, 200), impatient=st.booleans())
def test_client_and_server_understand_each_other(size: int, impatient: bool) -> None:
    """Whether the client waits for SETTINGS before it asks, as gRPC does, or not."""
    one, server = client(), h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    greeting = Greeting()

    def ask() -> None:
        one.send_headers(1, [*REQUEST, ("user-agent", "kube-probe/1.34")])
        one.send_data(1, b"\0\0\0\0\0", end_stream=True)

    if impatient:
        ask()
    sent = one.data_to_send()
    answer = OUR_SETTINGS
    for piece in cut(sent, size):
        answer += greeting.feed(piece)
    seen = one.receive_data(answer)
    assert events_of(seen, h2.events.RemoteSettingsChanged)
    late = b""
    if not impatient:
        assert greeting.fields is None
        ask()
        for piece in cut(one.data_to_send(), size):
            # What comes after the request is known goes through the filter.
            if greeting.fields is None:
                greeting.feed(piece)
            else:
                late += piece
    else:
        late = one.data_to_send()
    assert not greeting.failed
    assert greeting.fields is not None
    assert (b"user-agent", b"kube-probe/1.34") in greeting.fields
    to_server, to_client = greeting.filters()
    server.initiate_connection()
    heard = server.receive_data(greeting.held)
    for piece in cut(late, size):
        heard += server.receive_data(to_server.feed(piece))
    assert events_of(heard, h2.events.RequestReceived)
    assert not events_of(heard, h2.events.SettingsAcknowledged), "that was for us"
    server.send_headers(1, [(":status", "200")], end_stream=True)
    seen = []
    for piece in cut(server.data_to_send(), size):
        seen += one.receive_data(to_client.feed(piece))
    assert events_of(seen, h2.events.ResponseReceived)
    assert not events_of(seen, h2.events.SettingsAcknowledged), "the client has had that from us"
    heard = []
    for piece in cut(one.data_to_send(), size):
        heard += server.receive_data(to_server.feed(piece))
    assert len(events_of(heard, h2.events.SettingsAcknowledged)) == 1, "of the server's own"
    assert to_server.done
    assert to_client.done


@given(data=st.binary(max_size=300), preface=st.booleans(), size=st.integers(1, 50))
def test_nothing_is_too_strange(data: bytes, preface: bool, size: int) -> None:
    greeting = Greeting()
    whole = (PREFACE if preface else b"") + data
    for piece in cut(whole, size):
        if greeting.failed or greeting.fields is not None:
            break
        greeting.feed(piece)
    assert len(greeting.held) <= len(whole)
    kept = DropAck()
    assert sum(len(kept.feed(piece)) for piece in cut(data, size)) <= len(data)


@pytest.mark.parametrize(
    "frames",
    [
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x01",  # DATA before anything
        b"\x00\x00\x01\x01\x0c\x00\x00\x00\x01\x05",  # padding longer than the frame
        b"\x00\x40\x01\x04\x00\x00\x00\x00\x00",  # larger than a frame may be
        b"\x00\x00\x03\x01\x04\x00\x00\x00\x01\xff\xff\xff",  # not HPACK
    ],
)
def test_what_is_no_request(frames: bytes) -> None:
    greeting = Greeting()
    greeting.feed(PREFACE + frames)
    assert greeting.failed
    assert greeting.held == PREFACE + frames


def test_what_servers_say_first() -> None:
    assert are_settings(OUR_SETTINGS)
    assert are_settings(memoryview(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"))
    for other in (b"", b"SSH-2.0-x\r\n", b"\x00\x00\x05\x04\x00\x00\x00\x00\x00", OUR_SETTINGS[:8], b"220 mail\r\n"):
        assert not are_settings(other)
