"""What the running kernel says of its own structures: BTF, read with libbpf.

Only what tracing asks: where a member is, and what the values of an enumeration are called.
"""

import ctypes
import errno
from collections.abc import Iterator

from tproxy.errors import TproxyError
from tproxy.steer import libbpf

_STRUCT, _UNION, _ENUM = 4, 5, 6
_MODIFIERS = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag
_HEADER = 12  # struct btf_type, before its members
_MEMBER = 12  # struct btf_member
_VALUE = 8  # struct btf_enum
_DEEPEST = 16

_POINTER, _TEXT, _I32, _U32 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_uint32
_FUNCTIONS: tuple[tuple[str, type | None, tuple[type, ...]], ...] = (
    ("btf__load_vmlinux_btf", _POINTER, ()),
    ("btf__find_by_name_kind", _I32, (_POINTER, _TEXT, _U32)),
    ("btf__type_by_id", _POINTER, (_POINTER, _U32)),
    ("btf__name_by_offset", _TEXT, (_POINTER, _U32)),
    ("btf__free", None, (_POINTER,)),
)


class Btf:
    """The kernel's. Raises TproxyError if it has none, or no library reads it; KeyError for what it does not know."""

    def __init__(self) -> None:
        try:
            self._library = libbpf.library()
        except OSError as error:
            raise TproxyError(f"cannot load {libbpf.LIBRARY}: {error}", "run `apt install libbpf1`") from error
        for name, result, arguments in _FUNCTIONS:
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._pointer = self._library.btf__load_vmlinux_btf()
        if not self._pointer:
            number = ctypes.get_errno() or errno.ENOENT
            raise TproxyError(
                f"this kernel does not describe itself (BTF, /sys/kernel/btf/vmlinux): {errno.errorcode.get(number)}",
                "tracing needs a kernel with CONFIG_DEBUG_INFO_BTF",
            )

    def close(self) -> None:
        """Release it. Idempotent."""
        if self._pointer:
            self._library.btf__free(self._pointer)
            self._pointer = None

    def offset(self, struct: str, *path: str) -> int:
        """Where in `struct` the member is that `path` leads to, in bytes; anonymous members are looked through."""
        number, total = self._find(struct, _STRUCT), 0
        for name in path:
            found = self._member(number, name, 0)
            if found is None:
                raise KeyError(f"struct {struct} has no {'.'.join(path)}")
            bits, number = found
            total += bits
        return total // 8

    def enumeration(self, name: str) -> dict[int, str]:
        """Names of an enumeration's values."""
        return {value: text for text, value in self._values(self._find(name, _ENUM))}

    def _find(self, name: str, kind: int) -> int:
        number: int = self._library.btf__find_by_name_kind(self._pointer, name.encode(), kind)
        if number < 0:
            raise KeyError(f"the kernel has no {name}")
        return number

    def _type(self, number: int) -> tuple[int, int, int, int, int]:
        """Address, kind, number of members, whether offsets share their word with sizes, and the type it is about."""
        at = self._library.btf__type_by_id(self._pointer, number)
        info, other = self._words(at + 4, 2)
        return at, info >> 24 & 0x1F, info & 0xFFFF, info >> 31, other

    def _member(self, number: int, wanted: str, depth: int) -> tuple[int, int] | None:
        """Where a member is, in bits, and its type."""
        at, kind, count, packed, other = self._type(number)
        while kind in _MODIFIERS:
            number = other
            at, kind, count, packed, other = self._type(number)
        if kind not in (_STRUCT, _UNION) or depth > _DEEPEST:
            return None
        for index in range(count):
            name, inner, offset = self._words(at + _HEADER + index * _MEMBER, 3)
            bits = offset & 0xFFFFFF if packed else offset
            text = self._name(name)
            if text == wanted:
                return bits, inner
            if not text and (found := self._member(inner, wanted, depth + 1)) is not None:
                return bits + found[0], found[1]
        return None

    def _values(self, number: int) -> Iterator[tuple[str, int]]:
        at, _, count, _, _ = self._type(number)
        for index in range(count):
            name, value = self._words(at + _HEADER + index * _VALUE, 2)
            yield self._name(name), value

    def _name(self, offset: int) -> str:
        text: bytes | None = self._library.btf__name_by_offset(self._pointer, offset)
        return (text or b"").decode()

    @staticmethod
    def _words(at: int, count: int) -> tuple[int, ...]:
        return tuple((_U32 * count).from_address(at))
