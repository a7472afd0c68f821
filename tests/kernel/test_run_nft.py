"""A run where legacy iptables is missing, as on newer distributions: the same rules as one nft table."""

import socket
import subprocess
from typing import Any

import pytest

from tests.kernel.run_laptop import Laptop, process_inside
from tests.kernel.serving import serving

WITHOUT = {"XTABLES_LIBDIR": "/nowhere"}
"""Where python-iptables finds none of its extensions."""


def test_it_is_by_nft(laptop: Laptop) -> None:
    for environment, by_nft in (({}, False), (WITHOUT, True)):
        process = laptop.begin("sh", "-c", "echo up; read line", stdin=subprocess.PIPE, environment=environment)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        inside = process_inside()
        listed = subprocess.run(
            ["nsenter", f"--net=/proc/{inside}/ns/net", "nft", "list", "ruleset"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert ("table inet tproxy" in listed) == by_nft, listed
        process.communicate("\n", timeout=20)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_everything_is_caught_by_nft_as_well(laptop: Laptop, family: Any, host: str) -> None:
    with (
        serving(family, socket.SOCK_STREAM, host, b"laptop") as port,
        serving(family, socket.SOCK_DGRAM, host, b"echo ") as datagrams,
    ):
        code = f"""
import socket
connection = socket.create_connection(({host!r}, {port}))
print(connection.getpeername()[:2], connection.recv(9))
s = socket.socket({int(family)}, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b"one", ({host!r}, {datagrams}))
print(s.recvfrom(99)[0])
server = socket.create_server(("", 8080))
client = socket.create_connection(("127.0.0.1", 8080))
server.accept()[0].send(b"inside")
print(client.recv(9))"""
        seen = laptop.python(code, environment=WITHOUT).splitlines()
    assert seen == [f"({host!r}, {port}) b'laptop'", "b'echo one'", "b'inside'"]
    code = f"""
import socket
try: print(socket.create_connection(({host!r}, {port})).recv(1))
except OSError as error: print(type(error).__name__)"""
    # Without nft's queue (NFT_QUEUE) the kernel cannot ask: then it is accepted first, and reset.
    assert laptop.python(code, environment=WITHOUT) in ("ConnectionRefusedError", "ConnectionResetError")
    done = laptop.run("getent", "ahostsv4", "web", environment=WITHOUT)
    assert done.stdout.split()[0] == "10.96.0.7", done.stderr
