"""The client's streams: what is open, how each ends, and what is counted."""

from collections.abc import Iterable

from tproxy.http.exchange import Failure
from tproxy.http.h2 import frames as f
from tproxy.http.h2.answers import bad_gateway, grpc_unavailable
from tproxy.http.h2.patience import Patience
from tproxy.http.h2.peer import Peer
from tproxy.http.h2.stream import Half, Parked, Stream
from tproxy.http.port import Hop
from tproxy.model.figures import Outcome

MAX_STREAMS = 1024
"""Streams that a client may have at a time."""


class Book:
    """`highest` is the highest number of a stream that the client has used."""

    def __init__(self, hop: Hop) -> None:
        self.client = Peer(hop.client)
        self.streams: dict[int, Stream] = {}
        self.highest = 0
        self.parked = Parked()
        self._hop = hop
        self._patience = Patience()

    def known(self, number: int) -> Stream | None:
        """The stream of that number, None if it has ended. Raises `FaultError` if there has been none."""
        stream = self.streams.get(number)
        if stream is None and (number > self.highest or number % 2 == 0):
            raise f.FaultError(f.PROTOCOL_ERROR, "a frame of a stream that does not exist")
        return stream

    def begin(self, number: int) -> bool:
        """The client begins a stream; false if it can have no more. Raises `FaultError` if that is no number."""
        if number % 2 == 0:
            raise f.FaultError(f.PROTOCOL_ERROR, "a stream with a number that is the server's")
        self.highest = number
        if len(self.streams) < MAX_STREAMS:
            return True
        self.client.out.append(f.rst_stream(number, f.REFUSED_STREAM))
        self.futile()
        return False

    def futile(self) -> None:
        """The client has made us work for nothing. Raises `FaultError` if that happens all the time."""
        if not self._patience.spend(self._hop.now()):
            raise f.FaultError(f.ENHANCE_YOUR_CALM, "too many streams that come to nothing")

    def settle(self, stream: Stream) -> None:
        """After anything happened to a stream: send what can be sent, and note its end."""
        for half in (stream.up, stream.down):
            if half.queue and half.pump():
                half.sink.blocked[half] = None
        if stream.up.done and stream.down.done:
            self.close(stream)

    def finished(self, halves: Iterable[Half]) -> None:
        """These have sent everything."""
        for half in halves:
            if half.stream.over:
                self.close(half.stream)

    def close(self, stream: Stream) -> None:
        """A stream has ended, however."""
        if stream.gone:
            return
        stream.gone = True
        del self.streams[stream.number]
        if stream.down.done and not stream.up.ended:
            # It need not send the rest of its request (RFC 9113, 8.1).
            self.client.out.append(f.rst_stream(stream.number, f.NO_ERROR))
        self.leave(stream)
        stream.forget(self.parked)
        if stream.head is not None:
            self._hop.record(stream.outcome, stream.choice, stream.status, self._hop.now() - stream.began)

    def leave(self, stream: Stream) -> None:
        """Its upstream has no part in it any more."""
        for half in (stream.up, stream.down):
            half.drop()
            half.sink.blocked.pop(half, None)
        link = stream.link
        if link.streams.pop(stream.up.sink_id, None) is not None and link.waiting:
            for other in link.fill():
                self.settle(other)

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream for the client."""
        self.client.out.append(f.rst_stream(stream.number, code))
        stream.up.ended = True
        self.close(stream)

    def cut(self, stream: Stream) -> None:
        """The upstream has said everything, and takes nothing more."""
        stream.up.drop()
        stream.up.done = True
        self.settle(stream)

    @staticmethod
    def cancel(stream: Stream, code: int) -> None:
        """End a stream for its upstream, if that has it."""
        if stream.up.sink_id:
            stream.link.peer.out.append(f.rst_stream(stream.up.sink_id, code))

    def fail(self, stream: Stream, why: Failure | None, code: int) -> None:
        """End a stream that its upstream does not answer any more: with words, if any can be said."""
        head, down = stream.head, stream.down
        if down.ended:
            self.cut(stream)
            return
        if stream.outcome is not Outcome.PASSED:
            stream.outcome = Outcome.FAILED
        if why is None or head is None or (stream.started and not head.grpc):
            self.reset(stream, code)
            return
        if head.grpc:
            stream.status = stream.status or 200
            down.headers(grpc_unavailable(why, stream.started), True)
        else:
            stream.status = 502
            block, body = bad_gateway(why)
            if head.method == b"HEAD":
                down.headers(block, True)
            else:
                down.headers(block, False)
                down.put(body, True)
                down.ended = True
        self.cut(stream)
