"""The yardstick of `outbound.py`: an sshd on the lab's router, and sshuttle on its laptop, at its best.

The router is the one host that the laptop reaches; with routes into the cluster it is what people have as a jump host.
Keys are made for the run. Nothing is compressed, and the cipher is the fastest where processors have AES.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tproxy.lab.addresses import DNS_SERVICE, PODS, ROUTER, SERVICES, Node

SSHD = "/usr/sbin/sshd"
PORT = 2222
METHOD = "nft"
"""As fast as `nat`, and faster than `tproxy`. Options to try go into $SSHUTTLE_OPTIONS: `--no-latency-control` gains
nothing here."""

CIPHER = "aes128-gcm@openssh.com"
STANDS_SECONDS = 20.0

CONFIG = """
ListenAddress {address}:{port}
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
MaxStartups 100
"""


def missing() -> str:
    """What is not on this machine; empty if all is."""
    wanted = {
        "sshd (apt-get install openssh-server)": Path(SSHD).exists(),
        "ssh-keygen (apt-get install openssh-client)": shutil.which("ssh-keygen"),
        "sshuttle (pip install sshuttle, in an environment of its own that is on PATH)": shutil.which("sshuttle"),
    }
    return ", ".join(name for name, there in wanted.items() if not there)


@contextlib.contextmanager
def daemon(router: str, node: Node, directory: Path) -> Iterator[None]:
    """An sshd in the network namespace `router`, which has routes to Services from then on, by way of `node`."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    config, log = directory / "sshd_config", directory / "sshd.log"
    config.write_text(CONFIG.format(address=ROUTER[0], port=PORT, keys=directory))
    for network, gateway in zip(SERVICES, node.addresses, strict=True):
        subprocess.run(["ip", "-n", router, "route", "replace", network, "via", gateway], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with log.open("w") as errors:
        process = subprocess.Popen(["ip", "netns", "exec", router, SSHD, "-D", "-e", "-f", config], stderr=errors)
    try:
        _wait(lambda: "listening" in log.read_text(), log)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def running(enter: Sequence[str], directory: Path) -> Iterator[None]:
    """sshuttle in the place that `enter` leads to, for Services, pods, and DNS."""
    ssh = f"ssh -i {directory}/user -p {PORT} -c {CIPHER} -o Compression=no -o LogLevel=ERROR"
    ssh += f" -o StrictHostKeyChecking=no -o UserKnownHostsFile={directory}/known"
    command = ["sshuttle", "--method", METHOD, "--disable-ipv6", "-r", f"root@{ROUTER[0]}", "-e", ssh]
    command += [
        *os.environ.get("SSHUTTLE_OPTIONS", "").split(),
        "--dns",
        "--to-ns",
        DNS_SERVICE[0],
        SERVICES[0],
        PODS[0],
    ]
    log = directory / "sshuttle.log"
    with log.open("w") as out:
        process = subprocess.Popen([*enter, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        _wait(lambda: "onnected" in log.read_text(), log)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _wait(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + STANDS_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {STANDS_SECONDS:.0f} s: {log.read_text()}")
        time.sleep(0.05)
