"""The proxy of a service mesh, as it sits in a pod: rules that bring it connections, and what it does with them.

sidecar   nat REDIRECT to 15006; the app is called at the address that was meant, from 127.0.0.6 (Istio's sidecar)
ambient   nat REDIRECT to 15006; the app is called from the client's own address, by mark and policy routing (ztunnel)
linkerd   nat REDIRECT to 4143; the app is called at 127.0.0.1

The pod's own connections to elsewhere come by 15001 or 4140 and go on to where they were meant to go. Both families.
What passes is printed, a line each: `inbound CLIENT DESTINATION` or `outbound ...`.
"""

import asyncio
import ipaddress
import os
import socket
import struct
import subprocess
import sys
from functools import partial

UID = 1337
SO_ORIGINAL_DST = 80
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
MARK = 0x539

EXCLUDED = 8081
"""A port that the sidecar leaves alone, as an annotation can ask for."""

SIDECAR = """
*nat
-A PREROUTING -p tcp --dport {excluded} -j RETURN
-A PREROUTING -p tcp -j REDIRECT --to-ports {inbound}
-A OUTPUT -s {bound} -o lo -j RETURN
-A OUTPUT -o lo ! -d {loopback} -p tcp -m owner --uid-owner 1337 -j REDIRECT --to-ports {inbound}
-A OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A OUTPUT -m owner --uid-owner 1337 -j RETURN
-A OUTPUT -d {loopback} -j RETURN
-A OUTPUT -p tcp -j REDIRECT --to-ports {outbound}
COMMIT
"""

AMBIENT = """
*mangle
-A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark
COMMIT
*nat
-A PREROUTING ! -d {loopback} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports {inbound}
-A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A OUTPUT ! -d {loopback} -o lo -j ACCEPT
-A OUTPUT ! -d {loopback} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports {outbound}
COMMIT
"""
ROUTES = ("rule add fwmark 0x111/0xfff pref 32764 lookup 100", "route add local default dev lo table 100")

PORTS = {"sidecar": (15006, 15001), "ambient": (15006, 15001), "linkerd": (4143, 4140)}
RULES = {"sidecar": SIDECAR, "ambient": AMBIENT, "linkerd": SIDECAR}
LOOPBACK = {4: ("127.0.0.1/32", "127.0.0.6/32"), 6: ("::1/128", "::6/128")}


def install(kind: str) -> None:
    """Write the rules of both families into the pod's network namespace, unless an earlier run of this one has."""
    inbound, outbound = PORTS[kind]
    for family, tool in ((4, "iptables"), (6, "ip6tables")):
        if "REDIRECT" in subprocess.run([f"{tool}-save"], capture_output=True, text=True, check=True).stdout:
            continue
        loopback, bound = LOOPBACK[family]
        rules = RULES[kind].format(
            inbound=inbound, outbound=outbound, loopback=loopback, bound=bound, excluded=EXCLUDED
        )
        subprocess.run([f"{tool}-restore", "--noflush"], input=rules, text=True, check=True)
        if kind == "ambient":
            for line in ROUTES:
                subprocess.run(["ip", f"-{family}", *line.split()], check=True)
    if kind == "sidecar":
        subprocess.run(["ip", "-6", "address", "add", "::6/128", "dev", "lo"], check=False, stderr=subprocess.DEVNULL)


def meant(connection: socket.socket) -> tuple[str, int]:
    """Where a redirected connection was to go."""
    level, size = (socket.IPPROTO_IPV6, 28) if connection.family == socket.AF_INET6 else (socket.SOL_IP, 16)
    if level == socket.IPPROTO_IPV6 and ipaddress.ip_address(connection.getpeername()[0]).ipv4_mapped:
        level, size = socket.SOL_IP, 16
    found = connection.getsockopt(level, SO_ORIGINAL_DST, size)
    port = struct.unpack_from("!H", found, 2)[0]
    return str(ipaddress.ip_address(found[8:24] if size == 28 else found[4:8])), port


def plain(address: str) -> str:
    """An address without its mapping into IPv6."""
    one = ipaddress.ip_address(address)
    return str(getattr(one, "ipv4_mapped", None) or one)


def towards(kind: str, inbound: bool, host: str, client: tuple[str, int]) -> tuple[str, socket.socket]:
    """The address to call, and the socket to do it with."""
    v6 = ":" in host
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    sock.setblocking(False)
    if kind == "ambient":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    if inbound and kind == "sidecar":
        sock.bind(("::6" if v6 else "127.0.0.6", 0))
    elif inbound and kind == "ambient":
        level, option = (socket.IPPROTO_IPV6, IPV6_TRANSPARENT) if v6 else (socket.SOL_IP, IP_TRANSPARENT)
        sock.setsockopt(level, option, 1)
        sock.bind((client[0], 0))
    elif inbound:
        host = "::1" if v6 else "127.0.0.1"
    return host, sock


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def serve(kind: str, inbound: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    client = (plain(connection.getpeername()[0]), connection.getpeername()[1])
    host, port = meant(connection)
    print("inbound" if inbound else "outbound", f"{client[0]} {host} {port}", flush=True)
    try:
        target, sock = towards(kind, inbound, host, client)
        await asyncio.get_running_loop().sock_connect(sock, (target, port))
        there = await asyncio.open_connection(sock=sock)
    except OSError as error:
        print(f"failed {error}", flush=True)
        writer.transport.abort()
        return
    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
    there[1].close()
    writer.close()


async def main(kind: str) -> None:
    install(kind)
    servers = []
    for port, inbound in zip(PORTS[kind], (True, False), strict=True):
        sock = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        servers.append(await asyncio.start_server(partial(serve, kind, inbound), sock=sock))
    if kind != "ambient":  # whose proxy is told by its mark, not by its user
        os.setuid(UID)
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
