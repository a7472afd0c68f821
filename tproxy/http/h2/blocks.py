"""Header blocks (HPACK, RFC 7541), read without state wherever that is possible.

We tell every peer that our table has no room (SETTINGS_HEADER_TABLE_SIZE 0). What it sends before it has acknowledged
that may lean on what it sent earlier: it is decoded and encoded anew. Whatever it sends afterwards stands for itself,
so that it can go to any upstream as it is.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.struct import NeverIndexedHeaderTuple
from hpack.table import HeaderTable

from tproxy.http.h2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, FaultError

if TYPE_CHECKING:
    from hpack import Decoder

MAX_BLOCK = 128 * 1024
"""Bytes of a header block."""

MAX_DECODED = 256 * 1024
"""Bytes of its fields, as HPACK counts them."""

NO_TABLE = b"\x20"
"""The update by which an encoder says that it uses no table (6.3)."""

_CACHED = 512
"""Longest block whose meaning is remembered. Calls of one method often have the very same bytes."""

_CACHED_STRING = 256
_STATIC: tuple[tuple[bytes, bytes], ...] = tuple(HeaderTable.STATIC_TABLE)
_STATIC_PAIRS = {pair: index for index, pair in reversed(list(enumerate(_STATIC, 1)))}
_STATIC_NAMES = {pair[0]: index for index, pair in reversed(list(enumerate(_STATIC, 1)))}
_INDEXED, _INCREMENTAL, _UPDATE, _NEVER = 0x80, 0x40, 0x20, 0x10

Field = tuple[bytes, bytes]


class Head(NamedTuple):
    """What is looked at of a block. `fields` are those whose names were asked for; `status` is 0 in a request."""

    method: bytes
    target: bytes
    fields: tuple[Field, ...]
    grpc: bool
    status: int


class BlockReader:
    """Reads what one peer sends, block by block."""

    __slots__ = ("_decoder", "_table", "stateless")

    def __init__(self, table: int) -> None:
        self.stateless = False
        """The peer has acknowledged that there is no table."""
        self._table = table
        self._decoder: Decoder | None = None

    def read(self, block: bytes) -> bytes:
        """The same fields as a block that stands for itself. Each of the peer's blocks has to pass through here.

        Raises `FaultError` where an error is plain; the rest is found by `understand`.
        """
        if self.stateless:
            self._decoder = None
            while block[:1] == NO_TABLE:
                block = block[1:]
            return block
        if self._decoder is None:
            from hpack import Decoder

            self._decoder = Decoder(MAX_DECODED)
            self._decoder.max_allowed_table_size = self._table
        try:
            fields = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise FaultError(COMPRESSION_ERROR, f"{type(error).__name__} in a header block") from None
        return encode(
            (bytes(field[0]), bytes(field[1]), isinstance(field, NeverIndexedHeaderTuple)) for field in fields
        )


def understand(block: bytes, names: frozenset[bytes] = frozenset()) -> Head:
    """What a block that stands for itself says. Raises `FaultError` if it does not, or makes no sense."""
    return _understand_known(block, names) if len(block) <= _CACHED else _understand(block, names)


def encode(fields: Iterable[tuple[bytes, bytes, bool]]) -> bytes:
    """A block that stands for itself. True: a field that nobody may ever put into a table."""
    out = bytearray()
    for name, value, never in fields:
        index = _STATIC_PAIRS.get((name, value), 0)
        if index and not never:
            out += _integer(index, 0x7F, _INDEXED)
            continue
        kind = _NEVER if never else 0
        known = _STATIC_NAMES.get(name, 0)
        out += _integer(known, 0x0F, kind)
        if not known:
            out += _integer(len(name), 0x7F, 0)
            out += name
        out += _integer(len(value), 0x7F, 0)
        out += value
    return bytes(out)


def _integer(number: int, limit: int, first: int) -> bytes:
    if number < limit:
        return bytes((first | number,))
    out = bytearray((first | limit,))
    number -= limit
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_integer(block: bytes, at: int, limit: int) -> tuple[int, int]:
    """A number whose first byte, at `at`, has `limit` in its low bits, and where it ends (5.1)."""
    number, shift = limit, 0
    while True:
        at += 1
        byte = block[at]
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
        shift += 7
        if shift > 28:
            raise FaultError(COMPRESSION_ERROR, "a number without end")


def _read_string(block: bytes, at: int) -> tuple[bytes, bool, int]:
    """A string as it is, whether that is Huffman's code, and where it ends (5.2)."""
    first = block[at]
    length = first & 0x7F
    if length == 0x7F:
        length, at = _read_integer(block, at, 0x7F)
    else:
        at += 1
    end = at + length
    if end > len(block):
        raise IndexError
    return block[at:end], first >= 0x80, end


def _plain(text: bytes, coded: bool) -> bytes:
    if not coded:
        return text
    return _decode_known(text) if len(text) <= _CACHED_STRING else _decode(text)


def _decode(text: bytes) -> bytes:
    try:
        return bytes(decode_huffman(text))
    except HPACKError:
        raise FaultError(COMPRESSION_ERROR, "text in no code") from None


_decode_known = lru_cache(4096)(_decode)


def _understand(block: bytes, names: frozenset[bytes]) -> Head:
    method = target = authority = b""
    fields: list[Field] = []
    grpc, status = False, 0
    at, end = 0, len(block)
    try:
        while at < end:
            byte = block[at]
            if byte & _INDEXED:
                index = byte & 0x7F
                at += 1
                if index == 0x7F:
                    index, at = _read_integer(block, at - 1, 0x7F)
                if not 1 <= index <= 61:
                    raise FaultError(COMPRESSION_ERROR, "an entry of a table that has none")
                name, text = _STATIC[index - 1]
                coded = False
            else:
                if byte & _INCREMENTAL:
                    limit = 0x3F
                elif byte & _UPDATE:
                    raise FaultError(COMPRESSION_ERROR, "a table size where none can be")
                else:
                    limit = 0x0F
                index = byte & limit
                at += 1
                if index == limit:
                    index, at = _read_integer(block, at - 1, limit)
                if index:
                    if index > 61:
                        raise FaultError(COMPRESSION_ERROR, "an entry of a table that has none")
                    name = _STATIC[index - 1][0]
                else:
                    text, coded, at = _read_string(block, at)
                    name = _plain(text, coded)
                text, coded, at = _read_string(block, at)
            if name in names:
                fields.append((name, _plain(text, coded).strip(b" \t")))
            if name == b":path":
                target = _plain(text, coded)
            elif name == b":method":
                method = _plain(text, coded)
            elif name == b":authority":
                authority = _plain(text, coded)
            elif name == b":status":
                status = _status(_plain(text, coded))
            elif name == b"content-type":
                grpc = _plain(text, coded).startswith(b"application/grpc")
    except IndexError:
        raise FaultError(COMPRESSION_ERROR, "a header block that ends too early") from None
    if b"host" in names and authority and not any(name == b"host" for name, _ in fields):
        fields.append((b"host", authority))
    if b"cookie" in names:
        fields = _one_cookie(fields)
    return Head(method, target or authority, tuple(fields), grpc, status)


def _status(text: bytes) -> int:
    return int(text) if len(text) == 3 and text.isdigit() else 0


def _one_cookie(fields: list[Field]) -> list[Field]:
    """Cookies may come in crumbs, which are one header all the same (RFC 9113, 8.2.3)."""
    crumbs = [value for name, value in fields if name == b"cookie"]
    if len(crumbs) < 2:
        return fields
    return [field for field in fields if field[0] != b"cookie"] + [(b"cookie", b"; ".join(crumbs))]


_understand_known = lru_cache(2048)(_understand)


def check_size(size: int) -> None:
    """Raise `FaultError` if a header block of `size` bytes is too long."""
    if size > MAX_BLOCK:
        raise FaultError(ENHANCE_YOUR_CALM, f"a header block longer than {MAX_BLOCK} bytes")
