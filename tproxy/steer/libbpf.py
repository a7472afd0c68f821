"""A small ctypes binding of libbpf: as much as loading and attaching our programs needs.

The library is opened on first use, so that importing this module works where libbpf does not exist. Everything
raises `BpfError`, an OSError that also carries what libbpf and the verifier had to say.
"""

import collections
import ctypes
import errno
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

LIBRARY = "libbpf.so.1"
ATTACH_SK_LOOKUP = 36
LINK_TYPE_NETNS = 5

_MAP_TYPE_ARRAY = 2
_MOST_PROGRAMS = 64  # of one kind in one namespace, a limit of the kernel

_KEPT_LINES = 12  # of libbpf's complaints: the end of a verifier log holds the reason
_WARN = 0  # enum libbpf_print_level

# va_list is an array or a large struct on every 64-bit ABI we meet: a pointer when passed on.
_PrintFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

# Context, data, size of one sample of a ring buffer.
_SampleFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int
_TEXT = ctypes.c_char_p
_U32 = ctypes.c_uint32
_U32_OUT = ctypes.POINTER(ctypes.c_uint32)

# Name, result, arguments. Pointers come back NULL with errno set, integers as -errno.
_FUNCTIONS: tuple[tuple[str, type | None, tuple[type, ...]], ...] = (
    ("bpf_object__open_file", _POINTER, (_TEXT, _POINTER)),
    ("bpf_object__load", _INT, (_POINTER,)),
    ("bpf_object__close", _POINTER, (_POINTER,)),
    ("bpf_object__find_map_by_name", _POINTER, (_POINTER, _TEXT)),
    ("bpf_object__find_program_by_name", _POINTER, (_POINTER, _TEXT)),
    ("bpf_map__fd", _INT, (_POINTER,)),
    ("bpf_map__reuse_fd", _INT, (_POINTER, _INT)),
    ("bpf_map_create", _INT, (_INT, _TEXT, _U32, _U32, _U32, _POINTER)),
    ("bpf_map_update_elem", _INT, (_INT, _TEXT, _TEXT, ctypes.c_uint64)),
    ("bpf_map_lookup_elem", _INT, (_INT, _TEXT, _POINTER)),
    ("bpf_map_delete_elem", _INT, (_INT, _TEXT)),
    ("bpf_program__attach_netns", _POINTER, (_POINTER, _INT)),
    ("bpf_program__attach_cgroup", _POINTER, (_POINTER, _INT)),
    ("bpf_program__fd", _INT, (_POINTER,)),
    ("ring_buffer__new", _POINTER, (_INT, _SampleFunction, _POINTER, _POINTER)),
    ("ring_buffer__epoll_fd", _INT, (_POINTER,)),
    ("ring_buffer__consume", _INT, (_POINTER,)),
    ("ring_buffer__free", None, (_POINTER,)),
    ("bpf_link__fd", _INT, (_POINTER,)),
    ("bpf_link__destroy", _INT, (_POINTER,)),
    ("bpf_link_detach", _INT, (_INT,)),
    ("bpf_prog_query", _INT, (_INT, _INT, _U32, _U32_OUT, _U32_OUT, _U32_OUT)),
    ("bpf_prog_get_fd_by_id", _INT, (_U32,)),
    ("bpf_map_get_fd_by_id", _INT, (_U32,)),
    ("bpf_map_get_next_key", _INT, (_INT, _TEXT, _POINTER)),
    ("bpf_link_get_fd_by_id", _INT, (_U32,)),
    ("bpf_link_get_next_id", _INT, (_U32, _U32_OUT)),
    ("bpf_obj_get_info_by_fd", _INT, (_INT, _POINTER, _U32_OUT)),
    ("libbpf_num_possible_cpus", _INT, ()),
    ("libbpf_strerror", _INT, (_INT, _POINTER, ctypes.c_size_t)),
    ("libbpf_set_print", _POINTER, (_PrintFunction,)),
)


class BpfError(OSError):
    """A refused BPF operation. `lines` are libbpf's last words, the verifier's included."""

    def __init__(self, number: int, what: str, lines: tuple[str, ...] = ()) -> None:
        text = ctypes.create_string_buffer(128)
        library().libbpf_strerror(number, text, len(text))  # it has numbers of its own, beyond errno's
        super().__init__(number, f"{what}: {text.value.decode()}")
        self.lines = lines


_lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
_libc = ctypes.CDLL(None)


def _print(level: int, template: bytes, arguments: int) -> int:
    """Takes what libbpf would otherwise write to stderr."""
    if level != _WARN and not log.isEnabledFor(logging.DEBUG):
        return 0
    text = ctypes.c_char_p()
    if _libc.vasprintf(ctypes.byref(text), ctypes.c_char_p(template), ctypes.c_void_p(arguments)) < 0:
        return 0
    lines = (text.value or b"").decode(errors="replace").splitlines()
    _libc.free(text)
    if level == _WARN:
        _lines.extend(lines)
    for line in lines:
        log.debug("%s", line)
    return 0


# Kept here for as long as libbpf may call it.
_print_function = _PrintFunction(_print)


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf with its functions typed. Raises OSError if it is not installed."""
    lib = ctypes.CDLL(LIBRARY, use_errno=True)
    for name, result, arguments in _FUNCTIONS:
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    lib.libbpf_set_print(_print_function)
    return lib


def _checked(result: int, what: str) -> int:
    """An integer result, or BpfError if it is a negative errno."""
    if result < 0:
        raise BpfError(-result, what, tuple(_lines))
    return result


def _pointer(result: int | None, what: str) -> int:
    """A pointer result, or BpfError from errno if it is NULL."""
    if not result:
        raise BpfError(ctypes.get_errno() or errno.EINVAL, what, tuple(_lines))
    return result


class Map:
    """A BPF map by its descriptor, which somebody else owns."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd

    def update(self, key: bytes, value: bytes) -> None:
        """Set an entry."""
        _checked(library().bpf_map_update_elem(self.fd, key, value, 0), f"write to BPF map {self.name}")

    def lookup(self, key: bytes, size: int) -> bytes | None:
        """An entry's value of `size` bytes, None if there is no such entry."""
        value = ctypes.create_string_buffer(size)
        result = library().bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        _checked(result, f"read from BPF map {self.name}")
        return value.raw

    def lookup_per_cpu(self, key: bytes, size: int) -> list[bytes] | None:
        """An entry of a per-CPU map: one value of `size` bytes (a multiple of 8) for each possible CPU."""
        values = self.lookup(key, size * possible_cpus())
        return None if values is None else [values[at : at + size] for at in range(0, len(values), size)]

    def delete(self, key: bytes) -> None:
        """Remove an entry; none is fine too."""
        result = library().bpf_map_delete_elem(self.fd, key)
        if result != -errno.ENOENT:
            _checked(result, f"remove from BPF map {self.name}")


class OwnedMap(Map):
    """A BPF map made here; it lasts until `close` and the end of the programs that use it."""

    @classmethod
    def array(cls, name: str, value_size: int, entries: int) -> "OwnedMap":
        """An array map. Raises BpfError."""
        result = library().bpf_map_create(_MAP_TYPE_ARRAY, name.encode(), 4, value_size, entries, None)
        return cls(name, _checked(result, f"create BPF map {name}"))

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Ring:
    """A ring buffer that a program writes samples to. `on_sample` gets each one, in order, from within `consume`.

    The kernel drops what does not fit. `fileno` is readable when there is something to consume.
    """

    def __init__(self, source: Map, on_sample: Callable[[bytes], None]) -> None:
        def take(_: int | None, data: int, size: int) -> int:
            try:
                on_sample(ctypes.string_at(data, size))
            except Exception:  # it must not unwind through C
                log.exception("cannot take a sample of BPF map %s", source.name, extra={"rate_key": source.name})
            return 0

        self._take = _SampleFunction(take)  # kept for as long as libbpf may call it
        self._pointer = _pointer(
            library().ring_buffer__new(source.fd, self._take, None, None), f"read from BPF map {source.name}"
        )

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return int(library().ring_buffer__epoll_fd(self._pointer))

    def consume(self) -> None:
        """Take what there is."""
        library().ring_buffer__consume(self._pointer)

    def close(self) -> None:
        """Release it. Idempotent."""
        if self._pointer:
            library().ring_buffer__free(self._pointer)
            self._pointer = 0


class LinkInfo(ctypes.Structure):
    """struct bpf_link_info of a link to a network namespace."""

    _fields_ = (
        ("type", _U32),
        ("id", _U32),
        ("program", _U32),
        ("_padding", _U32),
        ("netns", _U32),  # inode
        ("attach_type", _U32),
        ("_rest", ctypes.c_uint8 * 64),
    )
    type: int
    id: int
    program: int
    netns: int
    attach_type: int


class _ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info."""

    _fields_ = (("_before", ctypes.c_uint8 * 64), ("name", ctypes.c_char * 16))
    name: bytes


class Link:
    """An attached program. It detaches when this is closed or the process dies, whichever comes first."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def info(self) -> LinkInfo:
        """What the kernel knows about it."""
        return link_info(library().bpf_link__fd(self._pointer))

    def close(self) -> None:
        """Detach now, and release. Idempotent."""
        if self._pointer:
            lib = library()
            # Closing the descriptor would detach as well, but some kernels do that in the background. An error
            # means that the namespace is gone or that another attachment has taken over: detached all the same.
            lib.bpf_link_detach(lib.bpf_link__fd(self._pointer))
            lib.bpf_link__destroy(self._pointer)
            self._pointer = 0


class Object:
    """A compiled object file: its programs and maps. `load` puts them into the kernel, `close` lets go of them."""

    def __init__(self, path: Path) -> None:
        _lines.clear()
        self._path = path
        self._pointer = _pointer(library().bpf_object__open_file(os.fsencode(path), None), f"open {path.name}")

    def share(self, name: str, shared: Map) -> None:
        """Before `load`: use an existing map instead of one of our own."""
        result = library().bpf_map__reuse_fd(self._map(name), shared.fd)
        _checked(result, f"share BPF map {name}")

    def load(self) -> None:
        """Create the maps and have the kernel verify the programs. Raises BpfError with the verifier's last lines."""
        _lines.clear()
        _checked(library().bpf_object__load(self._pointer), f"load {self._path.name}")

    def map(self, name: str) -> Map:
        """A map of a loaded object."""
        return Map(name, _checked(library().bpf_map__fd(self._map(name)), f"find BPF map {name}"))

    def attach_netns(self, program: str, netns: int) -> Link:
        """Attach a loaded program to the network namespace with descriptor `netns`."""
        return Link(_pointer(library().bpf_program__attach_netns(self._program(program), netns), f"attach {program}"))

    def attach_cgroup(self, program: str, cgroup: int) -> Link:
        """Attach a loaded program to the cgroup whose directory has the descriptor `cgroup`."""
        return Link(_pointer(library().bpf_program__attach_cgroup(self._program(program), cgroup), f"attach {program}"))

    def program(self, name: str) -> int:
        """The descriptor of a loaded program, which stays this object's."""
        return _checked(library().bpf_program__fd(self._program(name)), f"find {name}")

    def close(self) -> None:
        """Release everything that no link holds. Idempotent."""
        if self._pointer:
            library().bpf_object__close(self._pointer)
            self._pointer = 0

    def _program(self, name: str) -> int:
        return _pointer(library().bpf_object__find_program_by_name(self._pointer, name.encode()), f"find {name}")

    def _map(self, name: str) -> int:
        return _pointer(library().bpf_object__find_map_by_name(self._pointer, name.encode()), f"find BPF map {name}")


@functools.cache
def possible_cpus() -> int:
    """How many values a per-CPU map entry has."""
    return _checked(library().libbpf_num_possible_cpus(), "count CPUs")


def programs_attached(netns: int, attach_type: int) -> list[int]:
    """Ids of the programs in the namespace with descriptor `netns`, in the order the kernel runs them."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    count = ctypes.c_uint32(_MOST_PROGRAMS)
    result = library().bpf_prog_query(netns, attach_type, 0, None, ids, ctypes.byref(count))
    _checked(result, "list the namespace's BPF programs")
    return list(ids[: count.value])


def link_ids() -> Iterator[int]:
    """Ids of all links on this machine."""
    number = ctypes.c_uint32(0)
    while True:
        result = library().bpf_link_get_next_id(number, ctypes.byref(number))
        if result == -errno.ENOENT:
            return
        _checked(result, "list BPF links")
        yield number.value


def open_link(number: int) -> int:
    """A descriptor of the link with this id, for the caller to close. FileNotFoundError if it is gone."""
    result: int = library().bpf_link_get_fd_by_id(number)
    if result == -errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, f"BPF link {number} is gone")
    return _checked(result, "open a BPF link")


def link_info(fd: int) -> LinkInfo:
    """What the kernel knows about the link with descriptor `fd`."""
    info = LinkInfo()
    _fill(fd, info)
    return info


def detach_link(fd: int) -> None:
    """Detach the link with descriptor `fd`, whoever else holds it."""
    _checked(library().bpf_link_detach(fd), "detach a BPF link")


def program_name(number: int) -> str:
    """The name, at most 15 characters, of the program with this id; empty if it is gone."""
    fd: int = library().bpf_prog_get_fd_by_id(number)
    if fd == -errno.ENOENT:
        return ""
    _checked(fd, "open a BPF program")
    info = _ProgramInfo()
    try:
        _fill(fd, info)
    finally:
        os.close(fd)
    return info.name.decode(errors="replace")


def _fill(fd: int, info: ctypes.Structure) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    result = library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    _checked(result, "ask the kernel about a BPF object")
