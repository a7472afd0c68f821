"""systemd-resolved: a link of our own that it asks for the cluster's names, told over D-Bus, by root.

The link is a TUN device that goes with the process that holds it, and with it all that systemd-resolved knows of it. No
packet ever leaves by it: those to its DNS server are caught as all DNS is.
"""

import contextlib
import fcntl
import ipaddress
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Sequence

from tproxy.netns.netlink import Netlink, attribute
from tproxy_cli.connect.layout import PREFIX

LINK = f"{PREFIX}dns"
ADDRESS, SERVER = "192.0.0.54", "192.0.0.53"
"""Of the block for protocols (RFC 6890), assigned to nobody: no network has them."""

MOST_DOMAINS = 16
_PREFIX_LENGTH = 30
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_SECONDS = 5.0

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_NETLINK_ROUTE = 0
_NEWLINK, _NEWADDR = 16, 20
_CREATE = 0x400
_UP = 1
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2

_BUS = ("org.freedesktop.resolve1", "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager")
_DBUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
Domain = tuple[str, bool]
"""A domain, and whether it only routes: names below it are asked for here, but it is not searched."""


class Resolved:
    """The link, while it is open. Raises OSError when it cannot be made, or nobody is there to be told of it."""

    def __init__(self) -> None:
        self._busctl = shutil.which("busctl", path="/usr/bin:/bin")
        if self._busctl is None or not _runs(self._busctl):
            raise FileNotFoundError("systemd-resolved does not run")
        self.descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self.descriptor, _TUNSETIFF, struct.pack("16sH22x", LINK.encode(), _IFF_TUN | _IFF_NO_PI))
            self._index = socket.if_nametoindex(LINK)
            _configure(self._index)
        except BaseException:
            os.close(self.descriptor)
            raise

    def route(self, domains: Sequence[Domain]) -> None:
        """Have names below these domains asked for at `SERVER`. Raises OSError."""
        packed = map(str, ipaddress.ip_address(SERVER).packed)
        self._call("SetLinkDNS", "ia(iay)", "1", str(int(socket.AF_INET)), "4", *packed)
        words = [word for name, only in domains for word in (name, "true" if only else "false")]
        self._call("SetLinkDomains", "ia(sb)", str(len(domains)), *words)
        with contextlib.suppress(OSError):  # since version 240
            self._call("SetLinkDefaultRoute", "ib", "false")
        with contextlib.suppress(OSError):
            self._flush()

    def close(self) -> None:
        """The link is gone, and what systemd-resolved knew of it. Idempotent."""
        if self.descriptor >= 0:
            with contextlib.suppress(OSError):
                self._call("RevertLink", "i")
            os.close(self.descriptor)
            self.descriptor = -1
            with contextlib.suppress(OSError):
                self._flush()

    def _call(self, method: str, signature: str, *words: str) -> None:
        self._run("call", *_BUS, method, signature, str(self._index), *words)

    def _flush(self) -> None:
        """Names of the cluster's may be remembered as not existing, or as existing."""
        self._run("call", *_BUS, "FlushCaches")

    def _run(self, *words: str) -> None:
        _busctl(str(self._busctl), *words)


def domains(texts: object) -> list[Domain]:
    """What a message says of domains. Raises ValueError."""
    if not isinstance(texts, list) or len(texts) > MOST_DOMAINS:
        raise ValueError("not a list of so many domains")
    found: list[Domain] = []
    for each in texts:
        match each:
            case [str(name), bool(only)] if _DOMAIN.fullmatch(name):
                found.append((name, only))
            case _:
                raise ValueError("not a domain")
    return found


def _runs(busctl: str) -> bool:
    """Whether it runs, and in our network: seen from a container or a lab, another's links would have our numbers."""
    try:
        answer = _busctl(busctl, "call", *_DBUS, "GetConnectionUnixProcessID", "s", _BUS[0])
        theirs, ours = os.stat(f"/proc/{int(answer.split()[-1])}/ns/net"), os.stat("/proc/self/ns/net")
    except (OSError, ValueError, IndexError):
        return False
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def _busctl(busctl: str, *words: str) -> str:
    try:
        done = subprocess.run(
            [busctl, "--system", f"--timeout={_SECONDS:.0f}", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS + 1,
            check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError("systemd-resolved does not answer") from error
    if done.returncode:
        raise OSError(f"systemd-resolved: {done.stderr.decode(errors='replace').strip()[:200]}")
    return done.stdout.decode(errors="replace")


def _configure(index: int) -> None:
    with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{LINK}/disable_ipv6", "w") as file:
        file.write("1")
    packed = ipaddress.ip_address(ADDRESS).packed
    with contextlib.closing(Netlink(_NETLINK_ROUTE)) as kernel:
        head = _IFADDRMSG.pack(socket.AF_INET, _PREFIX_LENGTH, 0, 0, index)
        kernel.command(_NEWADDR, head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed), _CREATE)
        kernel.command(_NEWLINK, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, _UP, _UP))
