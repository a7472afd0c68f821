"""The header that tells a server behind a proxy who the client is: the PROXY protocol, versions 1 and 2. Pure.

The specification: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

import ipaddress
import struct
from typing import Literal

from tproxy.model.flow import Address

Version = Literal["v1", "v2"]

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY = 0x21  # version 2, on behalf of somebody
_FAMILIES = {4: 0x11, 6: 0x21}  # TCP over IPv4 or IPv6


def header(version: Version, client: Address | None, destination: Address) -> bytes:
    """What goes in front of a TCP connection's first bytes. `client` None, or of another family: nobody knows."""
    ends = [] if client is None else [(ipaddress.ip_address(one.host), one.port) for one in (client, destination)]
    family = ends[0][0].version if len({host.version for host, _ in ends}) == 1 else 0
    if version == "v1":
        if not family:
            return b"PROXY UNKNOWN\r\n"
        (source, source_port), (target, target_port) = ends
        return f"PROXY TCP{family} {source} {target} {source_port} {target_port}\r\n".encode()
    if not family:
        return _SIGNATURE + struct.pack("!BBH", _PROXY, 0, 0)
    addresses = b"".join(host.packed for host, _ in ends) + b"".join(struct.pack("!H", port) for _, port in ends)
    return _SIGNATURE + struct.pack("!BBH", _PROXY, _FAMILIES[family], len(addresses)) + addresses
