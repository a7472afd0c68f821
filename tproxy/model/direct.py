"""Where a node daemon may be reached without the API server's port-forward, as its pod says.

    node daemon ── annotations of its own pod ──▶ API server ──▶ laptop, which then trusts exactly that certificate

The certificate is made when the daemon starts and signed by nobody: what makes it the daemon's is that only node
daemons may write there.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tproxy.errors import InvalidError

Transport = Literal["port-forward", "direct"]
"""How a laptop reaches the nodes."""

ADDRESS = "tproxy.dev/direct-address"
CERTIFICATE = "tproxy.dev/direct-certificate"
SERVER_NAME = "tproxy-node"
"""The name that the certificates are for, whatever the address."""

MAX_CERTIFICATE_BYTES = 4096
_MAX_ADDRESS = 253 + 6
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class DirectWay:
    """An address for laptops, and the certificate (DER) shown there. `host` is a name or a numeric address."""

    host: str
    port: int
    certificate: bytes

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def annotations(self) -> dict[str, str]:
        """What the daemon writes on its pod."""
        return {ADDRESS: str(self), CERTIFICATE: base64.b64encode(self.certificate).decode("ascii")}

    @classmethod
    def from_annotations(cls, annotations: Mapping[str, str]) -> "DirectWay | None":
        """What a pod says; None if it says nothing. Raises `InvalidError` for what makes no sense."""
        address, certificate = annotations.get(ADDRESS, ""), annotations.get(CERTIFICATE, "")
        if not address and not certificate:
            return None
        if len(address) > _MAX_ADDRESS or len(certificate) > MAX_CERTIFICATE_BYTES * 2:
            raise InvalidError("the node daemon's pod has an outsized direct address or certificate")
        host, _, port = address.rpartition(":")
        if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidError(f"the node daemon's pod names {address[:60]!r} as its direct address: no port")
        try:
            der = base64.b64decode(certificate, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidError("the node daemon's pod shows a certificate that is no base64") from error
        if not der or len(der) > MAX_CERTIFICATE_BYTES:
            raise InvalidError("the node daemon's pod shows no certificate for its direct address")
        return cls(parse_host(host), int(port), der)


def parse_host(text: str) -> str:
    """A DNS name or numeric address, without the brackets of IPv6. Raises `InvalidError`."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if bare != text or not _HOST.fullmatch(text):
            raise InvalidError(f"{text[:60]!r} is neither a host's name nor its address") from None
        return text
