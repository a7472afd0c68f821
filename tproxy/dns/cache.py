"""Answers kept for a while (RFC 1035 section 7.4, RFC 2308), so that what is asked again need not travel. Sans-IO.

Programs ask the same over and over: resolvers of the C library keep nothing, and ask for both families and along the
search list. A pod is near its DNS server; a laptop is not. Answers are kept for as long as they say, but no longer than
`MOST_SECONDS`, for a cluster changes more quickly than its records expire.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from tproxy.dns import wire

MOST_SECONDS = 5.0
MOST_ANSWERS = 2048
LONGEST = 4096
"""Bytes of an answer that is kept, and of a query that is remembered."""

SOA = 6
_TTL = struct.Struct("!I")
_TTL_BEFORE_DATA = 6
"""The TTL of a record is that far before its data (RFC 1035 section 4.1.3): four bytes, then two of length."""


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: bytes
    ttls: tuple[tuple[int, int], ...]  # where each is in the answer, and what it was
    since: float
    until: float


class Cache:
    """Answers by query: the same but for the ID, with all flags, options and letters' case. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[bytes, _Kept] = {}  # oldest first

    def get(self, query: bytes) -> bytes | None:
        """The answer to `query`, with its ID, and TTLs as they are by now."""
        kept = self._kept.get(query[2:])
        if kept is None:
            return None
        now = self._clock()
        if now >= kept.until:
            del self._kept[query[2:]]
            return None
        answer = bytearray(kept.answer)
        answer[:2] = query[:2]
        if age := int(now - kept.since):
            for at, ttl in kept.ttls:
                _TTL.pack_into(answer, at, ttl - age)
        return bytes(answer)

    def put(self, query: bytes, answer: bytes) -> None:
        """Keep `answer`, if it may be kept. Nothing to raise: what is malformed is not kept."""
        if len(query) > LONGEST or len(answer) > LONGEST:
            return
        try:
            ttls, seconds = _lifetime(answer)
        except wire.MalformedError:
            return
        if seconds >= 1:
            self._kept.pop(query[2:], None)
            while len(self._kept) >= MOST_ANSWERS:
                del self._kept[next(iter(self._kept))]
            now = self._clock()
            self._kept[query[2:]] = _Kept(answer, ttls, now, now + min(seconds, MOST_SECONDS))

    def clear(self) -> None:
        """Keep nothing of what there was."""
        self._kept.clear()


def _lifetime(answer: bytes) -> tuple[tuple[tuple[int, int], ...], int]:
    """Its TTLs, and for how many seconds it may be kept: 0 for not at all. Raises `MalformedError`."""
    records = [record for record in wire.records(answer) if record.kind != wire.OPT]
    ttls = tuple((record.start - _TTL_BEFORE_DATA, record.ttl) for record in records)
    if wire.truncated(answer) or wire.rcode(answer) not in (wire.NOERROR, wire.NXDOMAIN) or not records:
        return ttls, 0
    seconds = min(record.ttl for record in records)
    if not any(record.section == 0 for record in records):
        # That there is nothing holds for as long as the zone says (RFC 2308 section 5); without a word of it, not.
        zone = next((record for record in records if record.kind == SOA and record.size >= 4), None)
        if zone is None:
            return ttls, 0
        (minimum,) = _TTL.unpack_from(answer, zone.start + zone.size - 4)
        seconds = min(seconds, minimum)
    return ttls, seconds if seconds < 1 << 31 else 0
