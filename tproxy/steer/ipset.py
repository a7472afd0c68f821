"""ipsets of one network namespace, over netlink: only the kinds that steering with TPROXY needs.

A *port set* is a `bitmap:port` of a single port. A *list* is a `list:set` of port sets, which a rule matches when the
packet's port is in one of its members; its entries may have a timeout, and count packets. Neither belongs to an address
family. A *source set* is a `hash:ip,port` of one family: who may come to which TCP port. A *network set* is a
`hash:net` of one family. Creating and adding what exists, and taking networks out that are not in, is no error.
"""

import errno
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Sequence

from tproxy.netns.addresses import IPAddress
from tproxy.netns.handle import Netns
from tproxy.netns.netlink import Netlink, attribute, attributes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
_CREATE, _DESTROY, _FLUSH, _LIST, _ADD, _DELETE = 2, 3, 4, 7, 9, 10
_GENERIC = bytes(4)  # struct nfgenmsg: no family, version 0, no resource

_NESTED, _NETWORK_ORDER = 0x8000, 0x4000
_KIND_MASK = 0x3FFF
_PROTOCOL, _SETNAME, _TYPENAME, _REVISION, _FAMILY, _FLAGS, _DATA, _ENTRIES, _LINENO = range(1, 10)
_IP, _PORT, _PORT_TO, _TIMEOUT, _TRANSPORT, _DATA_FLAGS = 1, 4, 5, 6, 7, 8
_CIDR = 3
_HASH_SIZE = 18
_NAME, _PACKETS = 18, 25
_REFERENCES = 25  # of a set; the numbers of entries' attributes are others
_WITH_COUNTERS = 1 << 3
_NAMES_ONLY = 1 << 1
_ENTRIES_AT_ONCE = 512
_FIRST_OWN_ERROR = 4096
_ERROR_FIND_TYPE = 4098
_ERROR_BUSY = 4100


class IpSets:
    """Holds a netlink socket in the namespace until `close`. Every method raises OSError.

    An ipset command takes microseconds, but `destroy` some 10 ms, in which the kernel lets no ipset command through in
    any namespace.
    """

    def __init__(self, netns: Netns) -> None:
        with netns.entered():
            self._netlink = Netlink(_NETLINK_NETFILTER)

    def create_port(self, name: str, port: int) -> None:
        """A port set, with its port in it."""
        one = _u16(_PORT, port)
        self._create(name, "bitmap:port", 0, 0, one + _u16(_PORT_TO, port))
        self._command(_ADD, _set(name) + attribute(_DATA | _NESTED, one))

    def create_list(self, name: str, timeout: int = 0) -> None:
        """A list with counters; its entries end after `timeout` seconds unless added with another time, 0 for never."""
        lasting = _u32(_TIMEOUT, timeout) if timeout else b""
        # Revision 1 of the type is the first with counters.
        self._create(name, "list:set", 1, 0, _u32(_DATA_FLAGS, _WITH_COUNTERS) + lasting)

    def create_sources(self, name: str, family: int) -> None:
        """A source set with counters."""
        # Revision 2 is the first with them; 64 is the smallest table that there is.
        self._create(name, "hash:ip,port", 2, family, _u32(_HASH_SIZE, 64) + _u32(_DATA_FLAGS, _WITH_COUNTERS))

    def create_networks(self, name: str, family: int, timeout: int = 0) -> None:
        """A network set; its entries end after `timeout` seconds, 0 for never."""
        lasting = _u32(_TIMEOUT, timeout) if timeout else b""
        # 64 is the smallest table that there is; it grows. 65,536 entries are its default limit.
        self._create(name, "hash:net", 0, family, _u32(_HASH_SIZE, 64) + lasting)

    def add_networks(self, name: str, networks: Sequence[Network]) -> None:
        """Put networks in, or have those that are in stay for another timeout. Prefixes of no length cannot be."""
        self._change(_ADD, name, networks)

    def delete_networks(self, name: str, networks: Sequence[Network]) -> None:
        """Take networks out."""
        self._change(_DELETE, name, networks)

    def _change(self, command: int, name: str, networks: Sequence[Network]) -> None:
        for at in range(0, len(networks), _ENTRIES_AT_ONCE):
            entries = b"".join(_network(one) for one in networks[at : at + _ENTRIES_AT_ONCE])
            self._command(command, _set(name) + attribute(_ENTRIES | _NESTED, entries) + attribute(_LINENO, bytes(4)))

    def add_source(self, name: str, source: IPAddress, port: int) -> None:
        """Let one more in."""
        self._command(_ADD, _set(name) + _source(source, port))

    def delete_source(self, name: str, source: IPAddress, port: int) -> None:
        """Let one less in."""
        self._command(_DELETE, _set(name) + _source(source, port))

    def run(self, message: bytes) -> None:
        """An `adding` message."""
        self._command(_ADD, message)

    def delete(self, name: str, member: str) -> None:
        """Take a port set out of a list; no error if it has timed out."""
        try:
            self._command(_DELETE, _set(name) + attribute(_DATA | _NESTED, _text(_NAME, member)))
        except OSError as error:
            if (error.errno or 0) < _FIRST_OWN_ERROR:
                raise

    def flush(self, name: str) -> None:
        """Empty a list at once."""
        self._command(_FLUSH, _set(name))

    def destroy(self, name: str) -> None:
        """No error if it does not exist."""
        try:
            self._command(_DESTROY, _set(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == _ERROR_BUSY:
                raise OSError(errno.EBUSY, f"ipset {name} is in use") from error
            raise

    def destroy_all(self) -> None:
        """Every set of the namespace, in the time that `destroy` takes for one; they must be flushed."""
        self._command(_DESTROY, _protocol())

    def names(self) -> list[str]:
        """Every set of the namespace, in the order of creation."""
        request = _GENERIC + _protocol() + _u32(_FLAGS, _NAMES_ONLY)
        found = []
        for answer in self._netlink.dump(_SUBSYSTEM | _LIST, request):
            values = _values(answer[len(_GENERIC) :])
            found.append(values[_SETNAME].rstrip(b"\0").decode())
        return found

    def packets(self, name: str) -> dict[str, int]:
        """How many packets each member of a list has matched."""
        counts = {}
        for answer in self._netlink.dump(_SUBSYSTEM | _LIST, _GENERIC + _set(name)):
            for _, entry in attributes(_values(answer[len(_GENERIC) :]).get(_ENTRIES, b"")):
                values = _values(entry)
                counts[values[_NAME].rstrip(b"\0").decode()] = int.from_bytes(values[_PACKETS], "big")
        return counts

    def timeouts(self, name: str) -> dict[str, int]:
        """The seconds that each member of a list has left."""
        left = {}
        for answer in self._netlink.dump(_SUBSYSTEM | _LIST, _GENERIC + _set(name)):
            for _, entry in attributes(_values(answer[len(_GENERIC) :]).get(_ENTRIES, b"")):
                values = _values(entry)
                left[values[_NAME].rstrip(b"\0").decode()] = int.from_bytes(values.get(_TIMEOUT, b""), "big")
        return left

    def references(self, name: str) -> int:
        """How many rules and lists refer to a set."""
        for answer in self._netlink.dump(_SUBSYSTEM | _LIST, _GENERIC + _set(name)):
            values = _values(answer[len(_GENERIC) :])
            if _DATA in values:
                return int.from_bytes(_values(values[_DATA]).get(_REFERENCES, b""), "big")
        return 0

    def packets_to(self, name: str) -> Counter[int]:
        """How many packets the members of a source set have matched, by port."""
        counts: Counter[int] = Counter()
        for answer in self._netlink.dump(_SUBSYSTEM | _LIST, _GENERIC + _set(name)):
            for _, entry in attributes(_values(answer[len(_GENERIC) :]).get(_ENTRIES, b"")):
                values = _values(entry)
                counts[int.from_bytes(values[_PORT], "big")] += int.from_bytes(values[_PACKETS], "big")
        return counts

    def close(self) -> None:
        """Release the socket. Idempotent."""
        self._netlink.close()

    def _create(self, name: str, kind: str, revision: int, family: int, data: bytes) -> None:
        described = _text(_TYPENAME, kind)
        described += attribute(_REVISION, bytes([revision])) + attribute(_FAMILY, bytes([family]))
        try:
            self._command(_CREATE, _set(name) + described + attribute(_DATA | _NESTED, data))
        except OSError as error:
            if error.errno == _ERROR_FIND_TYPE:
                raise OSError(errno.EOPNOTSUPP, f"the kernel has no ipset of type {kind}") from error
            raise

    def _command(self, command: int, body: bytes) -> None:
        self._netlink.command(_SUBSYSTEM | command, _GENERIC + body)


def adding(name: str, members: Iterable[str], timeout: int | None = None) -> bytes:
    """The message that adds port sets to a list, or has those that are in it stay `timeout` seconds from then on."""
    lasting = b"" if timeout is None else _u32(_TIMEOUT, timeout)
    entries = b"".join(attribute(_DATA | _NESTED, _text(_NAME, member) + lasting) for member in members)
    return _set(name) + attribute(_ENTRIES | _NESTED, entries) + attribute(_LINENO, bytes(4))


def _protocol() -> bytes:
    return attribute(_PROTOCOL, b"\x06")  # what every kernel speaks


def _set(name: str) -> bytes:
    return _protocol() + _text(_SETNAME, name)


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _network(network: Network) -> bytes:
    kind = 1 if network.version == 4 else 2
    address = attribute(kind | _NETWORK_ORDER, network.network_address.packed)
    return attribute(_DATA | _NESTED, attribute(_IP | _NESTED, address) + attribute(_CIDR, bytes([network.prefixlen])))


def _source(source: IPAddress, port: int) -> bytes:
    # One attribute inside another: 1 for IPv4, 2 for IPv6.
    address = attribute((1 if source.version == 4 else 2) | _NETWORK_ORDER, source.packed)
    protocol = attribute(_TRANSPORT, bytes([socket.IPPROTO_TCP]))
    return attribute(_DATA | _NESTED, attribute(_IP | _NESTED, address) + _u16(_PORT, port) + protocol)


def _u16(kind: int, value: int) -> bytes:
    return attribute(kind | _NETWORK_ORDER, struct.pack("!H", value))


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind | _NETWORK_ORDER, struct.pack("!I", value))


def _values(data: bytes) -> dict[int, bytes]:
    return {kind & _KIND_MASK: value for kind, value in attributes(data)}
