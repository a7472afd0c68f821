"""Whatever clients send, however it is cut: the app gets exactly what is not somebody's, and nobody gets it twice."""

import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.http.corpus import STREAMS, Message, Stream
from tests.unit.http.hop import Recorded, Talk, no_http2
from tproxy.http.opening import Opening

assert len(STREAMS) >= 200


class Server:
    """The app, or a laptop: answers a message once it has all of it, `late` ones after the client has said more."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = list(messages)
        self.due: list[Message] = []
        self._seen = 0

    def look(self, received: int) -> None:
        """So many bytes have come so far."""
        while self.messages and received >= self._seen + len(self.messages[0].data):
            message = self.messages.pop(0)
            self._seen += len(message.data)
            if message.answer:
                self.due.append(message)


class Play:
    """One stream between a client, the app and laptops. `eager` says how often a due answer is given at once."""

    def __init__(self, stream: Stream, chance: random.Random, eager: float) -> None:
        self.talk = Talk(make=lambda hop: Opening(hop, no_http2))
        self.talk.hop.become(self.talk.router)
        self.chance = chance
        self.eager = eager
        strange = next((number for number, message in enumerate(stream) if message.strange), len(stream))
        self.apps = [message for message in stream[:strange] if not message.user] + list(stream[strange:])
        self.laptops = {
            f"uid-{user}": [message for message in stream[:strange] if message.user == user] for user in ("ada", "eve")
        }
        self.answers = b"".join(message.answer for message in stream[:strange])
        self.app = Server(self.apps[: len(self.apps) - len(stream) + strange])
        self.servers = {name: Server(messages) for name, messages in self.laptops.items()}

    def received(self, laptop: str) -> bytes:
        """By all connections to it."""
        return b"".join(end.data for end in self.talk.hop.laptops if end.name == laptop)

    def say(self, pieces: Iterator[bytes]) -> None:
        """The client speaks, and servers answer; in the end everything that is due is answered."""
        for piece in pieces:
            self.talk.say(piece)
            while self.chance.random() < self.eager and self.serve():
                pass
        while self.serve():
            pass

    def serve(self) -> bool:
        """Give one answer that is due, in two pieces; false if there is none."""
        hop = self.talk.hop
        self.app.look(len(hop.default.data))
        for name, server in self.servers.items():
            server.look(len(self.received(name)))
        due: list[tuple[Server, Recorded]] = [(self.app, hop.default)] if self.app.due else []
        due += [(server, hop.laptops[-1]) for server in self.servers.values() if server.due]
        if not due:
            return False
        assert len(due) == 1, "two places have requests at the same time"
        server, end = due[0]
        answer = server.due.pop(0).answer
        cut = self.chance.randint(0, len(answer))
        for part in (answer[:cut], answer[cut:]):
            if part:
                self.talk.answer(end, part)
        return True

    def check(self) -> None:
        hop = self.talk.hop
        if hop.spliced is None and hop.awake is not None:
            self.talk.timeout()  # a beginning without an end
        assert len(hop.apps) == 1
        assert hop.default.data == b"".join(message.data for message in self.apps)
        for name, messages in self.laptops.items():
            assert self.received(name) == b"".join(message.data for message in messages)
        assert hop.client.data == self.answers
        assert "reset" not in hop.client.events


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("name", STREAMS)
def test_in_one_piece_and_in_smallest(name: str) -> None:
    stream = STREAMS[name]
    data = b"".join(message.data for message in stream)
    for size in (len(data), 1 if len(data) < 3000 else 997):
        for eager in (1.0, 0.0):
            play = Play(stream, random.Random(name), eager)
            play.say(cut(data, size))
            play.check()


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(STREAMS)),
    st.lists(st.integers(0, 2000), max_size=20),
    st.randoms(use_true_random=False),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_cut_anywhere(name: str, sizes: list[int], chance: random.Random, eager: float) -> None:
    stream = STREAMS[name]
    data = b"".join(message.data for message in stream)
    pieces, at = [], 0
    for size in sizes:
        if size:
            pieces.append(data[at : at + size])
            at += size
    pieces.append(data[at:])
    play = Play(stream, chance, eager)
    play.say(piece for piece in pieces if piece)
    play.check()
