"""Throw-away certificates, made by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: an authority, and what it has signed for a server (`api.test`, `localhost`) and a client."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make(directory: Path) -> Certificates:
    """Make them in `directory`."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority", "-days", "2")
    names = "DNS:api.test,DNS:localhost"
    for name, extension in (
        ("server", f"subjectAltName={names}"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (directory / "ext").write_text(extension)
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return Certificates(*(directory / f for f in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")))
