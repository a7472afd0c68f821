"""What leads marked packets back to the laptop itself: one policy rule and one route per address family."""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator

from tproxy.netns.netlink import Netlink, attribute, attributes
from tproxy_cli.connect.layout import ANY_CAUGHT, PRIORITY, TABLE, Family

_NETLINK_ROUTE = 0
_NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 32, 33, 34
_CREATE, _EXCLUSIVE = 0x400, 0x200  # NLM_F_CREATE, NLM_F_EXCL
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, lengths of destination and source, TOS, table, protocol, scope, type
_FIB_RULE = struct.Struct("=BBBBBBBBI")  # family, lengths, TOS, table, two unused, action, flags
_PROTO_STATIC, _SCOPE_HOST, _TYPE_LOCAL, _TO_TABLE, _TABLE_UNSPEC = 4, 254, 2, 1, 0
_RTA_OIF, _RTA_TABLE = 4, 15
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 6, 10, 15, 16
_LO = 1


def add(family: Family) -> None:
    """Add both; no error if they are there already. Raises OSError."""
    with _kernel() as kernel:
        for kind, request in ((_NEWROUTE, _route(family)), (_NEWRULE, _rule(family))):
            with contextlib.suppress(FileExistsError):
                kernel.command(kind, request, _CREATE | _EXCLUSIVE)


def remove_rule(family: Family) -> None:
    """Remove the rule; no error if it is gone. Raises OSError."""
    with _kernel() as kernel, contextlib.suppress(FileNotFoundError):
        while True:  # however many there are
            kernel.command(_DELRULE, _rule(family))


def remove_route(family: Family) -> None:
    """Remove the route; no error if it is gone. Raises OSError."""
    with _kernel() as kernel, contextlib.suppress(ProcessLookupError):
        kernel.command(_DELROUTE, _route(family))


def is_there(family: Family) -> bool:
    """Whether the rule is. Raises OSError."""
    wanted = {number: value for number, value in attributes(_rule(family)[_FIB_RULE.size :])}
    with _kernel() as kernel:
        try:
            rules = list(kernel.dump(_GETRULE, _FIB_RULE.pack(family.number, *bytes(8))))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                return False  # a kernel without this family
            raise
    return any(wanted.items() <= dict(attributes(rule[_FIB_RULE.size :])).items() for rule in rules)


def _route(family: Family) -> bytes:
    head = _RTMSG.pack(family.number, 0, 0, 0, _TABLE_UNSPEC, _PROTO_STATIC, _SCOPE_HOST, _TYPE_LOCAL, 0)
    return head + _u32(_RTA_TABLE, TABLE) + _u32(_RTA_OIF, _LO)


def _rule(family: Family) -> bytes:
    head = _FIB_RULE.pack(family.number, 0, 0, 0, _TABLE_UNSPEC, 0, 0, _TO_TABLE, 0)
    marks = _u32(_FRA_FWMARK, ANY_CAUGHT) + _u32(_FRA_FWMASK, ANY_CAUGHT)
    return head + _u32(_FRA_PRIORITY, PRIORITY) + marks + _u32(_FRA_TABLE, TABLE)


@contextlib.contextmanager
def _kernel() -> Iterator[Netlink]:
    with contextlib.closing(Netlink(_NETLINK_ROUTE)) as kernel:
        yield kernel


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def has_ip6() -> bool:
    """Whether the kernel speaks IPv6 here at all."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
