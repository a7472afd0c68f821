"""A place to run processes: a network namespace plus a private view of /etc and a host name.

A sleeping process holds the mount and UTS namespaces open, as a pod's pause container does. Only names are private;
everything else is the host's own file system.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from tproxy.errors import TproxyError
from tproxy.lab.addresses import CLUSTER_DOMAIN, DNS_SERVICE
from tproxy.lab.enter import Prepare, enter, tool
from tproxy.lab.layout import NETNS, PATH
from tproxy.lab.process import Process
from tproxy.netns.handle import Netns

# Unmounting in the host's /run/netns must reach these copies (slave), or removed namespaces would live on in them.
# A name service cache on the host would answer instead of our resolv.conf, so its socket is covered.
_HOLD = """
umask 022
echo "$2" > /proc/sys/kernel/hostname
for file in resolv.conf hosts nsswitch.conf; do
    if [ -e "/etc/$file" ]; then mount --bind "$1/$file" "/etc/$file"; fi
done
if [ -e /run/nscd/socket ]; then mount --bind /dev/null /run/nscd/socket; fi
echo ready
exec sleep infinity > /dev/null 2>&1
"""


class Sandbox:
    """Namespaces held open by `holder`; `close` ends it, after which only the named network namespace is left."""

    def __init__(self, holder: Process, netns: Netns) -> None:
        self.holder = holder
        self.netns = netns

    @classmethod
    async def start(cls, netns: str, etc: Path, hostname: str, group: Path) -> "Sandbox":
        """Hold the network namespace named `netns`; `etc` has the private files. Raises TproxyError."""
        handle = Netns.open(NETNS / netns)
        reading, writing = os.pipe()
        try:
            holder = Process.start(
                [
                    tool("nsenter"),
                    f"--net={NETNS / netns}",
                    tool("unshare"),
                    "--mount",
                    "--uts",
                    "--propagation=slave",
                    "/bin/sh",
                    "-euc",
                    _HOLD,
                    "holder",
                    str(etc),
                    hostname[:63],
                ],
                group,
                {"PATH": PATH, "LC_ALL": "C.UTF-8"},
                output=writing,
            )
        except BaseException:
            os.close(reading)
            handle.close()
            raise
        finally:
            os.close(writing)
        said = await _read_all_until_ready(reading)
        if not said.endswith("ready\n"):
            handle.close()
            raise TproxyError(f"cannot hold the namespaces of {hostname}: {said.strip()[:512]}")
        return cls(holder, handle)

    def command(self, command: Sequence[str], directory: str, prepare: Prepare = list) -> list[str]:
        """`command` as run inside, in `directory`; nothing forks, so the process that starts this becomes it.

        `prepare` wraps what then runs inside.
        """
        return enter(self.holder.pid, command, directory, prepare)

    async def close(self) -> None:
        """End the holder. Idempotent."""
        self.holder.signal(9)
        await self.holder.wait()
        self.netns.close()


def write_etc(directory: Path, resolv_conf: str, hosts: Sequence[tuple[str, str]]) -> None:
    """Write the private files of a place. `hosts` are pairs of address and names."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "resolv.conf").write_text(resolv_conf)
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", *(f"{address} {names}" for address, names in hosts)]
    (directory / "hosts").write_text("\n".join(lines) + "\n")
    (directory / "nsswitch.conf").write_text(_nsswitch())


def cluster_resolv_conf(namespace: str = "", ip6: bool = False) -> str:
    """A resolv.conf as a kubelet writes it for pods of `namespace`; without one, of a machine that knows the DNS.

    With `ip6` the DNS is asked by IPv6.
    """
    server = DNS_SERVICE[ip6]
    if not namespace:
        return f"nameserver {server}\n"
    search = f"{namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}"
    return f"search {search}\nnameserver {server}\noptions ndots:5\n"


def _nsswitch() -> str:
    """The host's nsswitch.conf, resolving by files and DNS alone: systemd-resolved would bypass resolv.conf."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        lines = Path("/etc/nsswitch.conf").read_text().splitlines()
    return "\n".join([*(line for line in lines if not line.startswith("hosts:")), "hosts: files dns"]) + "\n"


async def _read_all_until_ready(descriptor: int) -> str:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        said = b""
        while not said.endswith(b"ready\n") and (more := await reader.read(4096)):
            said += more
        return said.decode(errors="replace")
    finally:
        transport.close()
