"""DNS messages as bytes (RFC 1035 section 4): reading the little that routing them needs, and answers without records.

Whole messages pass through unchanged, so that whatever they carry (EDNS, DNSSEC, types of tomorrow) arrives. All
functions take bytes of anybody's and raise `MalformedError` for what is no message.
"""

import ipaddress
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = 12
MAX_MESSAGE = 65535
PLAIN_UDP = 512
"""What a client that says nothing of EDNS takes by UDP (RFC 1035 section 2.3.4)."""

A, CNAME, PTR, AAAA, SRV, OPT = 1, 5, 12, 28, 33, 41
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5

_RECORD = struct.Struct("!HHIH")  # type, class, TTL, length
_PLAIN = re.compile(rb"[!-\-/-\[\]-~]*").fullmatch
"""A label that is its own text: printable ASCII without dots and backslashes."""

_POINTER = 0xC0
_MAX_POINTERS = 64


class MalformedError(ValueError):
    """No DNS message. The text carries nothing of it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks: `name` in lower case without a final dot, with labels that are not ASCII escaped; empty for
    the root. `end` is where it ends in the message."""

    name: str
    kind: int
    cls: int
    end: int


@dataclass(frozen=True, slots=True)
class Record:
    """A resource record; the data from `start` to `start + size` in the message. `section` is 0 for answers."""

    section: int
    kind: int
    cls: int
    ttl: int
    start: int
    size: int


def question(message: bytes) -> Question:
    """The only question of a query or an answer. Raises `MalformedError`."""
    if not HEADER < len(message) <= MAX_MESSAGE or message[4:6] != b"\0\1":
        raise MalformedError("not one question")
    name, at = _name(message, HEADER)
    if at + 4 > len(message):
        raise MalformedError("a truncated question")
    kind, cls = struct.unpack_from("!HH", message, at)
    return Question(name, kind, cls, at + 4)


def same_question(query: bytes, end: int, other: bytes) -> bool:
    """Whether `other` has the question of `query`, which ends there at `end`: letters may differ in case (RFC 1035
    section 2.3.3)."""
    if other[4:6] != b"\0\1" or other[end - 4 : end] != query[end - 4 : end]:
        return False
    name, others = query[HEADER : end - 4], other[HEADER : end - 4]
    return name == others or name.lower() == others.lower()  # a length is never a letter: it is 63 at most


def is_query(message: bytes) -> bool:
    """Whether it is a message that asks something."""
    return len(message) > HEADER and not message[2] & 0x80


def rcode(answer: bytes) -> int:
    """The answer's code, without what EDNS adds to it."""
    return answer[3] & 0x0F


def truncated(answer: bytes) -> bool:
    """Whether the TC bit is set."""
    return bool(answer[2] & 0x02)


def udp_limit(query: bytes) -> int:
    """How long an answer by UDP may be, by the query's EDNS record (RFC 6891 section 6.2.3)."""
    try:
        for record in _records(query):
            if record.kind == OPT:
                return max(PLAIN_UDP, record.cls)
    except MalformedError:
        pass
    return PLAIN_UDP


def for_udp(query: bytes, answer: bytes) -> bytes:
    """`answer` if the asking client takes it by UDP; else as much as says that it is to be asked for by TCP."""
    if len(answer) <= PLAIN_UDP or len(answer) <= udp_limit(query):
        return answer
    end = question(query).end
    return answer[:2] + bytes((answer[2] | 0x02, answer[3])) + b"\0\1" + bytes(6) + query[HEADER:end]


def answer_without_records(query: bytes, code: int) -> bytes:
    """An answer to `query` that says nothing but `code`. Raises `MalformedError`."""
    end = question(query).end
    flags = bytes((query[2] & 0x79 | 0x80, 0x80 | code))  # the opcode and RD as asked, QR; RA
    return query[:2] + flags + b"\0\1" + bytes(6) + query[HEADER:end]


def make_query(name: str, kind: int, number: int = 0, payload: int = 0) -> bytes:
    """A query for `name` in ASCII; with `payload`, by EDNS, for answers of that many bytes by UDP.

    Raises `MalformedError` for what is no name.
    """
    edns = struct.pack("!BHHIH", 0, OPT, payload, 0, 0) if payload else b""
    header = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, bool(edns))
    return header + packed_name(name) + struct.pack("!HH", kind, 1) + edns


def addresses(answer: bytes) -> list[tuple[str, int]]:
    """The addresses that an answer carries, each with its TTL in seconds, whatever name they are for."""
    found = []
    for record in _records(answer):
        if record.kind in (A, AAAA) and record.cls == 1 and record.size == (4 if record.kind == A else 16):
            packed = answer[record.start : record.start + record.size]
            found.append((str(ipaddress.ip_address(packed)), record.ttl))
    return found


def records(message: bytes) -> list[Record]:
    """Every record of every section. Raises `MalformedError`."""
    return list(_records(message))


def name_at(message: bytes, at: int) -> str:
    """The name in record data at `at`. Raises `MalformedError`."""
    return _name(message, at)[0]


def packed_name(name: str) -> bytes:
    """`name` in ASCII as bytes, uncompressed. Raises `MalformedError` for what is no name."""
    labels = [label.encode("ascii", "replace") for label in name.rstrip(".").split(".")] if name.rstrip(".") else []
    if any(not 0 < len(label) < 64 for label in labels) or sum(len(label) + 1 for label in labels) > 254:
        raise MalformedError("no name")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _records(message: bytes) -> Iterator[Record]:
    """Every record of every section."""
    at = question(message).end
    counts = struct.unpack_from("!HHH", message, 6)
    for section in (section for section, count in enumerate(counts) for _ in range(count)):
        at = _after_name(message, at)
        if at + _RECORD.size > len(message):
            raise MalformedError("a truncated record")
        kind, cls, ttl, size = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        if at + size > len(message):
            raise MalformedError("a truncated record")
        yield Record(section, kind, cls, ttl, at, size)
        at += size


def _after_name(message: bytes, at: int) -> int:
    """Where what follows the name at `at` begins."""
    while at < len(message):
        size = message[at]
        if size >= _POINTER:
            return at + 2
        if size > 63:
            break
        at += size + 1
        if not size:
            return at
    raise MalformedError("a name that does not end")


def _name(message: bytes, at: int) -> tuple[str, int]:
    """The name at `at`, and where what follows it begins."""
    labels: list[str] = []
    length, after, jumps = 0, -1, 0
    while True:
        if at >= len(message):
            raise MalformedError("a truncated name")
        size = message[at]
        if size >= _POINTER:
            if at + 1 >= len(message):
                raise MalformedError("a truncated name")
            target = (size & 0x3F) << 8 | message[at + 1]
            jumps += 1
            if target >= at or jumps > _MAX_POINTERS:  # only backwards, so that it ends
                raise MalformedError("a name that does not end")
            after = at + 2 if after < 0 else after
            at = target
            continue
        if size > 63:
            raise MalformedError("a label of an unknown kind")
        at += 1
        if not size:
            return ".".join(labels), at if after < 0 else after
        length += size + 1
        if length > 254 or at + size > len(message):
            raise MalformedError("a name that is too long")
        labels.append(_text(message[at : at + size]))
        at += size


def _text(label: bytes) -> str:
    if _PLAIN(label):
        return label.decode("ascii").lower()
    return "".join(chr(byte) if 33 <= byte < 127 and byte not in b".\\" else f"\\{byte:03d}" for byte in label).lower()
