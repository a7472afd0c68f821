"""Addresses and routes of a namespace whose traffic is caught, and its rules, by whichever way the kernel offers."""

import contextlib
import ipaddress
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence

from tproxy.capture import nft
from tproxy.capture.layout import FAMILIES, IP4, IP6, Family
from tproxy.netns.netlink import Netlink, attribute

_NETLINK_ROUTE = 0
_NEWLINK, _NEWADDR, _NEWROUTE = 16, 20, 24
_CREATE = 0x400  # NLM_F_CREATE
_IFINFOMSG = struct.Struct("=BxHiII")  # family, device type, index, flags, which of them change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, lengths of destination and source, TOS, table, protocol, scope, type
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_PREFSRC = 4, 7
_NODAD = 0x02
_LO = 1
_UP = 1
_TABLE_LOCAL, _PROTO_BOOT, _SCOPE_HOST, _TYPE_LOCAL = 255, 3, 254, 2

_SYSCTLS = {
    # CMD may listen on port 80 as it does in its pod.
    "ipv4/ip_unprivileged_port_start": "0",
    # The last packet of a handshake by cookies is no SYN, and would come to a listener of CMD's.
    "ipv4/tcp_syncookies": "0",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/lo/disable_ipv6": "0",
}


class RulesError(Exception):
    """The kernel, or a library, has something against the rules."""


def set_up() -> Sequence[Family]:
    """Addresses and routes in the calling process' fresh network namespace; the families it has. Raises OSError."""
    for name, value in _SYSCTLS.items():
        # Read-only in a container, and nothing of this without IPv6.
        with contextlib.suppress(OSError), open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
            file.write(value)
    with contextlib.closing(Netlink(_NETLINK_ROUTE)) as kernel:
        kernel.command(_NEWLINK, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, _LO, _UP, _UP))
        _add_addresses(kernel, IP4)
        _route_all(kernel, IP4)
        try:
            _add_addresses(kernel, IP6)
        except OSError:
            return (IP4,)  # a kernel without IPv6
        _route_all(kernel, IP6)
    return FAMILIES


def _add_addresses(kernel: Netlink, family: Family) -> None:
    for address in (family.host, family.relay):
        packed = ipaddress.ip_address(address).packed
        # Without the flag IPv6's are tentative for a moment, and no route can have them as its source.
        head = _IFADDRMSG.pack(family.number, len(packed) * 8, _NODAD if family is IP6 else 0, 0, _LO)
        kernel.command(_NEWADDR, head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed), _CREATE)


def _route_all(kernel: Netlink, family: Family) -> None:
    source = ipaddress.ip_address(family.host).packed
    head = _RTMSG.pack(family.number, 0, 0, 0, _TABLE_LOCAL, _PROTO_BOOT, _SCOPE_HOST, _TYPE_LOCAL, 0)
    out = attribute(_RTA_OIF, struct.pack("=I", _LO))
    kernel.command(_NEWROUTE, head + out + attribute(_RTA_PREFSRC, source), _CREATE)


def install_rules(families: Sequence[Family], prefer: str = "iptables") -> bool:
    """Install the rules in the calling process' namespace; whether connections will be asked about.

    python-iptables comes first, then one nft table, each with the queue that asks and, if the kernel lacks that,
    without. Raises RulesError with what the ways had against it.
    """
    ways: dict[str, Callable[[Sequence[Family], bool], None]] = {"iptables": _by_iptables, "nft": _by_nft}
    complaints = []
    for way in sorted(ways, key=lambda name: name != prefer):
        for ask in (True, False):
            try:
                ways[way](families, ask)
            except RulesError as error:
                complaints.append(f"{way}: {error}")
            else:
                return ask
    raise RulesError("; ".join(dict.fromkeys(complaints)))


def _by_iptables(families: Sequence[Family], ask: bool) -> None:
    """A process of its own per family: the library cannot do two, and has threads and tables that nobody else needs."""
    from tproxy.steer import iptables_library

    def work() -> None:
        iptables_library.load()
        if len(families) > 1:
            forked = _fork(lambda: install(families[1]))
        install(families[0])
        if len(families) > 1:
            _join(*forked)

    def install(family: Family) -> None:
        from tproxy.capture import iptables

        iptables.install(family, ask)

    _join(*_fork(work))


def _by_nft(families: Sequence[Family], ask: bool) -> None:
    try:
        done = subprocess.run(["nft", "-f", "-"], input=nft.render(ask), capture_output=True, text=True, check=False)
    except OSError as error:
        raise RulesError(f"nft does not start: {error.strerror}") from error
    if done.returncode:
        raise RulesError(done.stderr.strip().splitlines()[0] if done.stderr.strip() else "nft failed")


def _fork(work: Callable[[], None]) -> tuple[int, int]:
    """A child that works: its process id, and the pipe in which it complains."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        work()
        status = 0
    except BaseException as error:
        os.write(write, f"{error}".encode()[:2048] or type(error).__name__.encode())
    finally:
        # Not exit: python-iptables commits its tables once more when they are collected.
        os._exit(status)


def _join(pid: int, read: int) -> None:
    with os.fdopen(read, "rb") as pipe:
        complaint = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if status:
        raise RulesError(complaint or f"the process that installs them ended with status {status}")
