"""Frames as bytes: what `tproxy/rpc/v1/tunnel.proto` says, with a short way for DATA.

A `Batch` only holds repeated frames, and the concatenation of two serialised protobuf messages is their merge: so
every frame is encoded on its own, as a batch of one, and a batch is the join of them. DATA is most of the traffic:
it is written and read here by hand (same bytes, no message objects), DATAGRAM written; every other frame goes through
protobuf.
"""

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from tproxy.model.flow import NOWHERE, Address, FlowKind, OpenRequest, ResetReason
from tproxy.rpc.v1 import tunnel_pb2 as pb

MAX_HOST_CHARACTERS = 253
MAX_TEXT_CHARACTERS = 512
MAX_DETAIL_CHARACTERS = 256
MAX_CONTROL_BYTES = 4096
"""No frame but DATA and DATAGRAM may be larger."""

_FRAME = b"\x0a"  # Batch.frames: field 1, length-delimited
_CONN = 0x08  # Frame.conn: field 1, varint
_DATA = 0x32  # Frame.data: field 6, length-delimited
_DATAGRAM = 0x52  # Frame.datagram: field 10, length-delimited

_KINDS = {
    FlowKind.INBOUND: pb.Open.KIND_INBOUND,
    FlowKind.DIAL: pb.Open.KIND_DIAL,
    FlowKind.READ: pb.Open.KIND_READ,
    FlowKind.ASK: pb.Open.KIND_ASK,
}
_KINDS_BACK = {number: kind for kind, number in _KINDS.items()}
_REASONS = {
    ResetReason.RESET: pb.Reset.REASON_RESET,
    ResetReason.REFUSED: pb.Reset.REASON_REFUSED,
    ResetReason.UNREACHABLE: pb.Reset.REASON_UNREACHABLE,
    ResetReason.TIMED_OUT: pb.Reset.REASON_TIMED_OUT,
    ResetReason.NO_SUCH_HOST: pb.Reset.REASON_NO_SUCH_HOST,
    ResetReason.DENIED: pb.Reset.REASON_DENIED,
    ResetReason.LIMIT: pb.Reset.REASON_LIMIT,
    ResetReason.TUNNEL_LOST: pb.Reset.REASON_TUNNEL_LOST,
    ResetReason.INTERNAL: pb.Reset.REASON_INTERNAL,
}
_REASONS_BACK = {number: reason for reason, number in _REASONS.items()}


class WireError(Exception):
    """Bytes that are no batch. The text carries nothing the peer sent."""


def varint(value: int) -> bytes:
    """`value` as protobuf writes unsigned integers."""
    if value < 128:
        return _ONE[value]
    if value < 16384:
        return _TWO[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_ONE = [bytes((value,)) for value in range(128)]
_TWO = [bytes((value & 127 | 128, value >> 7)) for value in range(16384)]


def data_prefix(conn: int) -> bytes:
    """The part of a DATA frame that is the same for the life of a connection; see `data_header`."""
    return bytes((_CONN,)) + varint(conn) + bytes((_DATA,))


def data_header(prefix: bytes, size: int) -> bytes:
    """What precedes `size` bytes of data in a batch."""
    length = varint(size)
    return _FRAME + varint(len(prefix) + len(length) + size) + prefix + length


def open_frame(conn: int, request: OpenRequest, credit: int) -> bytes:
    """OPEN as a batch of one."""
    body = pb.Open(
        kind=_KINDS[request.kind],
        protocol=request.protocol,
        intercept=request.intercept,
        pod=request.pod,
        container=request.container,
        credit=credit,
    )
    if request.destination is not NOWHERE:
        body.destination.host = request.destination.host
        body.destination.port = request.destination.port
    if request.source is not None:
        body.source.host = request.source.host
        body.source.port = request.source.port
    return _batch(pb.Frame(conn=conn, open=body))


def opened_frame(conn: int, credit: int) -> bytes:
    """OPENED as a batch of one."""
    return _batch(pb.Frame(conn=conn, opened=pb.Opened(credit=credit)))


def credit_frame(conn: int, size: int) -> bytes:
    """CREDIT as a batch of one."""
    return _batch(pb.Frame(conn=conn, credit=size))


def fin_frame(conn: int) -> bytes:
    """FIN as a batch of one."""
    return _batch(pb.Frame(conn=conn, fin=pb.Fin()))


def reset_frame(conn: int, reason: ResetReason, detail: str) -> bytes:
    """RESET as a batch of one."""
    body = pb.Reset(reason=_REASONS[reason], detail=detail[:MAX_DETAIL_CHARACTERS])
    return _batch(pb.Frame(conn=conn, reset=body))


def datagram_frame(conn: int, payload: bytes) -> bytes:
    """DATAGRAM as a batch of one."""
    length = varint(len(payload))
    inner = bytes((_CONN,)) + varint(conn) + bytes((_DATAGRAM,)) + length
    return _FRAME + varint(len(inner) + len(payload)) + inner + payload


def ping_frame(value: int) -> bytes:
    """PING as a batch of one."""
    return _batch(pb.Frame(ping=value))


def pong_frame(value: int) -> bytes:
    """PONG as a batch of one."""
    return _batch(pb.Frame(pong=value))


def frames(batch: bytes) -> Iterator[tuple[int, bytes | memoryview | pb.Frame]]:
    """Each frame of a batch: its connection, and its data or, if it is not DATA, the message.

    Data is not copied out of the batch when it is most of it: what a slow reader holds is never more than twice what
    it was sent.

    Raises `WireError` where the bytes stop making sense; the frames before that have been delivered.
    """
    at, end = 0, len(batch)
    try:
        while at < end:
            if batch[at] != 0x0A:
                raise WireError("a batch with an unknown field")
            size = batch[at + 1]
            at += 2
            if size > 127:
                size, at = _varint_at(batch, at - 1)
            stop = at + size
            if stop > end:
                raise WireError("a truncated batch")
            if size and batch[at] == _CONN:
                conn = batch[at + 1]
                inner = at + 2
                if conn > 127:
                    conn, inner = _varint_at(batch, at + 1)
                if batch[inner] == _DATA:
                    length = batch[inner + 1]
                    inner += 2
                    if length > 127:
                        length, inner = _varint_at(batch, inner - 1)
                    if inner + length == stop and length:
                        yield conn, batch[inner:stop] if length * 2 < end else memoryview(batch)[inner:stop]
                        at = stop
                        continue
            frame = pb.Frame.FromString(batch[at:stop])
            if size > MAX_CONTROL_BYTES and not frame.HasField("datagram"):
                raise WireError("a control frame that is too long")
            yield frame.conn, frame
            at = stop
    except (IndexError, DecodeError) as error:
        raise WireError("a malformed batch") from error


def open_request(body: pb.Open) -> OpenRequest:
    """What an OPEN asks for. Raises `WireError` when it makes no sense."""
    kind = _KINDS_BACK.get(body.kind)
    if kind is None:
        raise WireError("an OPEN of an unknown kind")
    if max(map(len, (body.intercept, body.pod, body.protocol, body.container))) > MAX_TEXT_CHARACTERS:
        raise WireError("an OPEN that is too long")
    source = _address(body.source) if body.HasField("source") else None
    nowhere = kind in (FlowKind.READ, FlowKind.ASK) and not body.HasField("destination")
    destination = NOWHERE if nowhere else _address(body.destination)
    protocol = body.protocol or "tcp"
    return OpenRequest(kind, destination, source, body.intercept, body.pod, protocol, body.container)


def reset_reason(body: pb.Reset) -> tuple[ResetReason, str]:
    """Why, and the detail for people. Reasons of a newer peer read as RESET."""
    detail = "".join(c for c in body.detail[:MAX_DETAIL_CHARACTERS] if c.isprintable())
    return _REASONS_BACK.get(body.reason, ResetReason.RESET), detail


def _address(address: pb.Address) -> Address:
    if not 0 < len(address.host) <= MAX_HOST_CHARACTERS or address.port > 65535:
        raise WireError("an OPEN with an address that is none")
    return Address(address.host, address.port)


def _batch(frame: pb.Frame) -> bytes:
    return pb.Batch(frames=[frame]).SerializeToString()


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value < 128:
        return value, at
    value &= 127
    for shift in (7, 14, 21, 28):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise WireError("an integer that is too long")
