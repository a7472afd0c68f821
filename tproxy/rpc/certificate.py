"""The node daemon's own certificate: made when it starts, gone when it ends, signed by nobody.

The key is in memory only. Laptops accept exactly this certificate, so it vouches for no other (it is no authority),
and its dates mean little: it lives as long as the process.
"""

import datetime
import os
import ssl
from dataclasses import dataclass, field

from tproxy.model.direct import SERVER_NAME

EARLIER = datetime.timedelta(days=1)
"""Laptops' clocks may be slow."""

VALID = datetime.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate and its key in PEM, and the certificate as it is published (DER)."""

    pem: bytes
    key: bytes = field(repr=False)
    der: bytes = field(repr=False)

    def context(self) -> ssl.SSLContext:
        """For a server of HTTP/2."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        # Python takes a key from a file only: this one is in memory too, and gone with its descriptor.
        with open(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb") as file:
            file.write(self.pem + self.key)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context


def make() -> ServerCertificate:
    """A new one: ECDSA on P-256, which every TLS library takes."""
    # Only where it is needed: 10 MiB, and laptops don't have it.
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, SHA256())
    )
    return ServerCertificate(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.DER),
    )
