"""Peers that speak HTTP/2 (python-h2) around the router, and their bytes carried to and fro."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings

from tests.unit.http.hop import MATCHER, Recorded, RecordedHop
from tproxy.http.h2.frames import PREFACE
from tproxy.http.h2.router import Http2
from tproxy.http.port import Matcher
from tproxy.model.flow import ResetReason

Headers = list[tuple[bytes, bytes]]


@dataclass
class Message:
    """What one end has received on one stream."""

    headers: Headers = field(default_factory=list)
    informational: list[Headers] = field(default_factory=list)
    body: bytes = b""
    trailers: Headers | None = None
    ended: bool = False
    reset: int | None = None


class End:
    """One end of a connection; `messages` by stream. Unless it is `stalling` its windows are kept open."""

    def __init__(self, client: bool, settings: dict[SettingCodes, int] | None = None) -> None:
        config = H2Configuration(client_side=client, header_encoding=None, validate_inbound_headers=False)
        self.h2 = H2Connection(config)
        if settings:
            self.h2.local_settings = Settings(client=client, initial_values={SettingCodes.ENABLE_PUSH: 0, **settings})
        self.h2.initiate_connection()
        self._pending = b""
        self.messages: dict[int, Message] = {}
        self.events: list[Event] = []
        self.stalling: set[int] = set()
        self.goaway: ConnectionTerminated | None = None
        self.requests: list[int] = []

    def message(self, stream: int) -> Message:
        return self.messages.setdefault(stream, Message())

    def receive(self, data: bytes) -> None:
        self._pending += data
        while len(self._pending) >= 9:
            preface = 24 if self._pending.startswith(PREFACE) else 0
            size = preface or 9 + int.from_bytes(self._pending[:3], "big")
            if len(self._pending) < size:
                return
            frame, self._pending = self._pending[:size], self._pending[size:]
            for event in self.h2.receive_data(frame):
                self.events.append(event)
                self._note(event)
            self._go_on()

    def leave(self, last: int) -> None:
        """Say GOAWAY, and serve the streams up to `last`."""
        self.h2.close_connection(last_stream_id=last)
        self._go_on()

    def _go_on(self) -> None:
        # For python-h2 a connection ends with GOAWAY; in the RFC its streams go on.
        if self.h2.state_machine.state is ConnectionState.CLOSED:
            client = self.h2.config.client_side
            self.h2.state_machine.state = ConnectionState.CLIENT_OPEN if client else ConnectionState.SERVER_OPEN

    def _note(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self.requests.append(event.stream_id)
            self.message(event.stream_id).headers = _pairs(event.headers)
        elif isinstance(event, ResponseReceived):
            self.message(event.stream_id).headers = _pairs(event.headers)
        elif isinstance(event, InformationalResponseReceived):
            self.message(event.stream_id).informational.append(_pairs(event.headers))
        elif isinstance(event, TrailersReceived):
            self.message(event.stream_id).trailers = _pairs(event.headers)
        elif isinstance(event, DataReceived):
            self.message(event.stream_id).body += event.data
            if event.stream_id not in self.stalling and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif event.flow_controlled_length:
                self.h2.increment_flow_control_window(event.flow_controlled_length)
        elif isinstance(event, StreamEnded):
            self.message(event.stream_id).ended = True
        elif isinstance(event, StreamReset):
            self.message(event.stream_id).reset = event.error_code
        elif isinstance(event, ConnectionTerminated):
            self.goaway = event

    @property
    def bodies(self) -> list[bytes]:
        return [self.messages[stream].body for stream in sorted(self.messages)]


def _pairs(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in headers]


def get(path: str = "/", **fields: str) -> Headers:
    return request("GET", path, **fields)


def request(method: str, path: str = "/", **fields: str) -> Headers:
    head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "shop")]
    pairs = [*head, *((name.replace("_", "-"), value) for name, value in fields.items())]
    return [(name.encode(), value.encode()) for name, value in pairs]


OK: Headers = [(b":status", b"200"), (b"content-type", b"text/plain")]


class H2Talk:
    """`client`, `app` and `laptops` (one per connection, in order) around a router; `run` lets them talk."""

    def __init__(
        self,
        matcher: Matcher = MATCHER,
        seed: int | None = None,
        early: bool = False,
        client_settings: dict[SettingCodes, int] | None = None,
        app_settings: dict[SettingCodes, int] | None = None,
        laptop_settings: dict[SettingCodes, int] | None = None,
    ) -> None:
        self.hop = RecordedHop(matcher)
        self.client = End(True, client_settings)
        self.ends: dict[Recorded, End] = {}
        self._app_settings = app_settings
        self._laptop_settings = laptop_settings
        self._random = random.Random(seed) if seed is not None else None
        self._taken: dict[Recorded, int] = {}
        self.down: set[Recorded] = set()
        first = b""
        if early:
            self.ends[self.hop.default] = End(False, app_settings)
            first = self.app.h2.data_to_send()
        self.router = Http2(self.hop, first, False)

    @property
    def app(self) -> End:
        return self.end(self.hop.default)

    @property
    def laptop(self) -> End:
        return self.end(self.hop.laptops[-1])

    def end(self, recorded: Recorded) -> End:
        if recorded not in self.ends:
            laptop = recorded in self.hop.laptops
            self.ends[recorded] = End(False, self._laptop_settings if laptop else self._app_settings)
        return self.ends[recorded]

    def run(self) -> "H2Talk":
        """Carry bytes until nobody has anything to say."""
        while self._once():
            pass
        return self

    def _once(self) -> bool:
        busy = False
        for piece in self._cut(self.client.h2.data_to_send()):
            busy = True
            self.router.client_data(piece)
        if data := self._written(self.hop.client):
            busy = True
            self.client.receive(data)
        for recorded in [*self.hop.apps, *self.hop.laptops]:
            if recorded in self.down:
                continue
            if data := self._written(recorded):
                busy = True
                self.end(recorded).receive(data)
            if recorded in self.ends:
                for piece in self._cut(self.ends[recorded].h2.data_to_send()):
                    busy = True
                    self.router.upstream_data(recorded, piece)
        return busy

    def _written(self, recorded: Recorded) -> bytes:
        at = self._taken.get(recorded, 0)
        self._taken[recorded] = len(recorded.data)
        return recorded.data[at:]

    def _cut(self, data: bytes) -> Sequence[bytes]:
        if not data or self._random is None:
            return [data] if data else []
        pieces = []
        while data:
            size = self._random.choice([1, 2, 7, 9, 13, 100, 5000, 100_000])
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    # What a client does

    def ask(self, headers: Headers, body: bytes | None = None, trailers: Headers | None = None) -> int:
        """Begin a request; with `body` or without one it is complete."""
        stream = self.client.h2.get_next_available_stream_id()
        self.client.h2.send_headers(stream, headers, end_stream=body is None and trailers is None)
        if body is not None:
            self.send(self.client, stream, body, trailers is None)
        if trailers is not None:
            self.run()
            self.client.h2.send_headers(stream, trailers, end_stream=True)
        self.run()
        return stream

    def send(self, end: End, stream: int, body: bytes, last: bool = True) -> None:
        """DATA, as windows allow; they must not stay shut."""
        while True:
            size = min(len(body), end.h2.local_flow_control_window(stream), 16384)
            final = size == len(body)
            if size or final:
                end.h2.send_data(stream, body[:size], end_stream=last and final)
            body = body[size:]
            if final:
                return
            self.run()
            assert end.h2.local_flow_control_window(stream) > 0, "the window stays shut"

    def answer(
        self, end: End, stream: int, body: bytes | None = b"ok", headers: Headers = OK, trailers: Headers | None = None
    ) -> None:
        """A whole answer."""
        end.h2.send_headers(stream, headers, end_stream=body is None and trailers is None)
        if body is not None:
            self.send(end, stream, body, trailers is None)
        if trailers is not None:
            end.h2.send_headers(stream, trailers, end_stream=True)
        self.run()

    def lose(self, recorded: Recorded, reason: ResetReason = ResetReason.RESET, detail: str = "") -> None:
        self.down.add(recorded)
        self.router.upstream_lost(recorded, reason, detail)
        self.run()

    @property
    def outcomes(self) -> list[tuple[str, str, int]]:
        return [(outcome.value, intercept, status) for outcome, intercept, status in self.hop.records]
