"""Throwaway network namespaces for tests: a pod and its outside, joined by a veth pair, IPv4 and IPv6.

outside 10.77.0.1 / fd77::1  ── veth ──  10.77.0.2 / fd77::2 pod
"""

import asyncio
import itertools
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from tproxy.netns.handle import Netns

PREFIX = "tproxy-t-"
POD_IP4, POD_IP6 = "10.77.0.2", "fd77::2"
OUTSIDE_IP4, OUTSIDE_IP6 = "10.77.0.1", "fd77::1"

_numbers = itertools.count()


def run(*command: str) -> str:
    """A command's output; CalledProcessError with its complaint if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise subprocess.CalledProcessError(result.returncode, command, result.stdout, result.stderr)
    return result.stdout


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@dataclass(frozen=True)
class Namespace:
    """A named network namespace with its loopback up."""

    name: str
    netns: Netns

    @property
    def path(self) -> str:
        return f"/var/run/netns/{self.name}"

    def run(self, *command: str) -> str:
        """Run a command inside."""
        return run("ip", "netns", "exec", self.name, *command)

    def listen(self, host: str, port: int, *, only_ip6: bool = False, backlog: int = 1024) -> socket.socket:
        """A non-blocking TCP listener inside."""
        sock = self.netns.socket(family_of(host), socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ip6)
        sock.bind((host, port))
        sock.listen(backlog)
        return sock

    async def connect(self, host: str, port: int, source: tuple[str, int] | None = None) -> socket.socket:
        """A connected non-blocking TCP socket inside. Raises OSError."""
        sock = self.netns.socket(family_of(host), socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            if source is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(source)
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def state(self) -> dict[str, str]:
        """What an administrator would look at to find out whether somebody changed this namespace."""
        inode = self.netns.id.inode
        links = run("bpftool", "link", "list").split("\n")
        return {
            "links": "\n".join(line for line in links if f"netns_ino {inode}" in line),
            # Without the queues' lengths, which change all the time.
            "listeners": "\n".join(sorted(line.split()[3] for line in self.run("ss", "-Htln").splitlines())),
            **{
                " ".join(command): _rules(self.run(*command))
                if command[0].endswith("-save")
                else _uncounted(self.run(*command))
                for command in (
                    ("iptables-save",),
                    ("ip6tables-save",),
                    ("iptables-legacy-save",),
                    ("ip6tables-legacy-save",),
                    ("bpftool", "net"),
                    ("ipset", "list", "-name"),
                    ("nft", "list", "ruleset"),
                    ("ip", "rule"),
                    ("ip", "-6", "rule"),
                    ("ip", "route", "show", "table", "all"),
                    ("ip", "-6", "route", "show", "table", "all"),
                )
            },
        }


def _uncounted(listed: str) -> str:
    """A listing without the counters of rules, which traffic moves."""
    return re.sub(r"counter packets \d+ bytes \d+", "counter", listed)


def _rules(saved: str) -> str:
    """Rules and chains; no dates and counters, nor the frames of tables that stay in the kernel without any."""
    return "\n".join(line for line in saved.splitlines() if line.startswith("-A") or " - [" in line)


@dataclass(frozen=True)
class PodNetwork:
    """A pod's namespace and its outside."""

    pod: Namespace
    outside: Namespace


class Namespaces:
    """Makes namespaces and removes every one of them in `close`."""

    def __init__(self) -> None:
        self._made: list[Namespace] = []

    def make(self, label: str) -> Namespace:
        name = f"{PREFIX}{os.getpid():x}-{next(_numbers)}-{label}"
        run("ip", "netns", "add", name)
        namespace = Namespace(name, Netns.open(f"/var/run/netns/{name}"))
        self._made.append(namespace)
        run("ip", "-n", name, "link", "set", "lo", "up")
        return namespace

    def make_pod(self) -> PodNetwork:
        network = PodNetwork(self.make("pod"), self.make("outside"))
        pod, outside = network.pod.name, network.outside.name
        run("ip", "-n", pod, "link", "add", "eth0", "type", "veth", "peer", "name", "pod0", "netns", outside)
        for name, device, addresses in (
            (pod, "eth0", (f"{POD_IP4}/24", f"{POD_IP6}/64")),
            (outside, "pod0", (f"{OUTSIDE_IP4}/24", f"{OUTSIDE_IP6}/64")),
        ):
            for address in addresses:
                # Without duplicate address detection, which would keep an IPv6 address unusable for a second.
                run("ip", "-n", name, "address", "add", address, "dev", device, *["nodad"] * (":" in address))
            # Without link-local addresses, which would appear some time later and change the routes.
            run("ip", "-n", name, "link", "set", device, "up", "addrgenmode", "none")
        for namespace, device in ((network.pod, "eth0"), (network.outside, "pod0")):
            _wait_for_routes(namespace, device)
        return network

    def close(self) -> None:
        for namespace in self._made:
            namespace.netns.close()
            subprocess.run(["ip", "netns", "delete", namespace.name], capture_output=True, check=False)
        self._made.clear()


def _wait_for_routes(namespace: Namespace, device: str) -> None:
    """The kernel adds the last routes of a link in the background."""
    deadline = time.monotonic() + 5
    while f"ff00::/8 dev {device}" not in namespace.run("ip", "-6", "route", "show", "table", "all"):
        assert time.monotonic() < deadline, "the link does not come up"


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until `condition()` holds; TimeoutError with its name after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for are kernel states, which set no event
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise TimeoutError(f"not within {seconds} s: {condition.__name__}") from None
