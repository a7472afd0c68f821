"""HTTP/2 as bytes, written and read without the code under test (hpack and hyperframe): messages in, messages out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Message:
    """A request or an answer. `reset`: the code by which it breaks off after what there is of it."""

    fields: Fields
    body: bytes = b""
    trailers: Fields | None = None
    reset: int | None = None
    early: tuple[Fields, ...] = ()


@dataclass(frozen=True)
class Manner:
    """How a message is put into frames."""

    pieces: int = 1
    """DATA frames of the body."""
    empty: bool = False
    """The end of the stream comes in a DATA frame of its own."""
    padding: int = 0
    priority: bool = False
    continuations: int = 0
    huffman: bool = True
    noise: bool = False
    """Frames in between that mean nothing to anybody else."""


class Writer:
    """One side of a connection."""

    def __init__(self) -> None:
        self.encoder = Encoder()
        self._noise = 0

    def begin(self, client: bool, settings: dict[int, int] | None = None) -> bytes:
        return (PREFACE if client else b"") + SettingsFrame(settings=settings or {}).serialize()

    def acknowledge(self) -> bytes:
        """From now on there is no table."""
        self.encoder.header_table_size = 0
        return SettingsFrame(flags=["ACK"]).serialize()

    def message(self, stream: int, message: Message, manner: Manner = Manner()) -> list[bytes]:
        """Its frames; those of one header block are one item, which nothing may divide."""
        only = not message.body and message.trailers is None and message.reset is None and not manner.empty
        frames = [self._block(stream, fields, False, manner) for fields in message.early]
        frames.append(self._block(stream, message.fields, only, manner))
        last = message.trailers is None and message.reset is None
        parts = _cut(message.body, manner.pieces) if message.body else []
        for number, part in enumerate(parts):
            end = last and not manner.empty and number == len(parts) - 1
            frames.append(self._data(stream, part, end, manner))
            if manner.noise:
                frames.append(self._meaningless(stream))
        if manner.empty and last:
            frames.append(self._data(stream, b"", True, manner))
        if message.trailers is not None:
            frames.append(self._block(stream, message.trailers, True, manner))
        if message.reset is not None:
            frames.append(RstStreamFrame(stream, error_code=message.reset).serialize())
        return frames

    def _data(self, stream: int, part: bytes, end: bool, manner: Manner) -> bytes:
        frame = DataFrame(stream, part, flags=["END_STREAM"] if end else [])
        if manner.padding:
            frame.flags.add("PADDED")
            frame.pad_length = manner.padding
        return frame.serialize()

    def _block(self, stream: int, fields: Fields, end: bool, manner: Manner) -> bytes:
        block = self.encoder.encode(list(fields), huffman=manner.huffman)
        size = min(16384 - 300, len(block) // (manner.continuations + 1) or 1)
        parts = [block[at : at + size] for at in range(0, len(block), size)]
        first = HeadersFrame(stream, parts[0], flags=["END_STREAM"] if end else [])
        if manner.padding:
            first.flags.add("PADDED")
            first.pad_length = manner.padding
        if manner.priority:
            first.flags.add("PRIORITY")
            first.depends_on, first.stream_weight = 0, 5
        frames: list[Frame] = [first, *(ContinuationFrame(stream, part) for part in parts[1:])]
        frames[-1].flags.add("END_HEADERS")
        return b"".join(frame.serialize() for frame in frames)

    def _meaningless(self, stream: int) -> bytes:
        self._noise += 1
        frames = [
            PriorityFrame(stream, depends_on=stream + 2, stream_weight=1).serialize(),
            PingFrame(0, b"%08d" % self._noise).serialize(),
            b"\0\0\x08\x77\xff" + stream.to_bytes(4, "big") + b"anything",
            WindowUpdateFrame(0, 10).serialize(),
            SettingsFrame(settings={0x99: 1}).serialize(),
        ]
        return frames[self._noise % len(frames)]


def _cut(data: bytes, pieces: int) -> Sequence[bytes]:
    size = min(16384 - 300, max(1, -(-len(data) // pieces)))
    return [data[at : at + size] for at in range(0, len(data), size)]


@dataclass
class Seen:
    """A message as far as it was read."""

    blocks: list[Fields] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    def message(self) -> Message:
        """What was meant."""
        early = [block for block in self.blocks if dict(block).get(b":status", b"").startswith(b"1")]
        rest = self.blocks[len(early) :]
        trailers = rest[1] if len(rest) > 1 else None
        assert len(rest) <= 2
        assert self.ended or self.reset is not None
        return Message(rest[0], self.body, trailers, self.reset, tuple(early))


@dataclass
class Read:
    """What a side has said: messages by stream, and the rest."""

    messages: dict[int, Seen] = field(default_factory=dict)
    goaways: list[tuple[int, int]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)

    @property
    def whole(self) -> list[Message]:
        return [seen.message() for _, seen in sorted(self.messages.items())]


def read(data: bytes) -> Read:
    """Read everything that one side has said; fails on what breaks the rules."""
    result, decoder = Read(), Decoder(1 << 20)
    data = data.removeprefix(PREFACE)
    block, ended = b"", False
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        assert length <= 16384
        frame.parse_body(memoryview(data[9 : 9 + length]))
        data = data[9 + length :]
        result.frames.append(frame)
        stream = frame.stream_id
        if isinstance(frame, HeadersFrame | ContinuationFrame):
            block += frame.data
            ended = ended or "END_STREAM" in frame.flags
            if "END_HEADERS" in frame.flags:
                seen = result.messages.setdefault(stream, Seen())
                assert not seen.ended
                assert seen.reset is None
                fields = decoder.decode(block, raw=True)
                seen.blocks.append(tuple((bytes(name), bytes(value)) for name, value in fields))
                seen.ended = ended
                block, ended = b"", False
            continue
        assert not block, "something in the middle of a header block"
        if isinstance(frame, DataFrame):
            seen = result.messages[stream]
            assert not seen.ended
            assert seen.reset is None
            seen.body += frame.data
            seen.ended = "END_STREAM" in frame.flags
        elif isinstance(frame, RstStreamFrame):
            seen = result.messages.setdefault(stream, Seen())
            assert seen.reset is None
            seen.reset = frame.error_code
        elif isinstance(frame, GoAwayFrame):
            result.goaways.append((frame.last_stream_id, frame.error_code))
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            assert 0x1 not in frame.settings or frame.settings[0x1] == 0
    return result
