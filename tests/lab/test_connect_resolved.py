"""`tproxy connect` where systemd-resolved answers the laptop's programs: it asks us for the cluster's domains alone.

A real systemd-resolved and a bus of its own run on the laptop of the lab.
"""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.connected import Connected, connected
from tproxy.kube.port import NAMESPACES

FIND = Path(__file__).parents[2] / ".ci" / "systemd-resolved"
BUS = """<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/>
<allow send_type="method_call"/><allow send_type="signal"/><allow receive_type="method_call"/></policy></busconfig>
"""
PREPARE = """
for directory in /run/dbus /run/systemd; do mkdir -p $directory; mount -t tmpfs none $directory; done
mkdir -p /run/systemd/netif/links
for file in passwd group; do cp /etc/$file /run/dbus/$file; done
grep -q ^systemd-resolve: /etc/passwd || {
    echo "systemd-resolve:x:996:996::/:/usr/sbin/nologin" >> /run/dbus/passwd
    echo "systemd-resolve:x:996:" >> /run/dbus/group
}
for file in passwd group; do mount --bind /run/dbus/$file /etc/$file; done
"""
UNDO = "for place in /etc/passwd /etc/group /run/dbus /run/systemd; do umount -l $place; done"
CALL = ("busctl", "--system", "call", "org.freedesktop.resolve1", "/org/freedesktop/resolve1")
MANAGER = "org.freedesktop.resolve1.Manager"


@pytest.fixture(scope="module")
def laptop(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connected]:
    """A laptop with systemd-resolved, not connected yet."""
    found = subprocess.run([FIND], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.fail(found.stderr)
    binary = found.stdout.strip()
    config = tmp_path_factory.mktemp("bus") / "bus.conf"
    config.write_text(BUS)
    config.parent.chmod(0o755)
    lab.client.create(NAMESPACES, {"metadata": {"name": "resolved"}})
    lab.exec("laptop", "sh", "-c", PREPARE)
    started: list[subprocess.Popen[str]] = []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        for command in (["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"], [binary]):
            started.append(lab.start("exec", "laptop", "--", *command, **quiet))
            name = "org.freedesktop.resolve1" if len(started) == 2 else "org.freedesktop.DBus"
            lab.wait(lambda name=name: name in lab.exec("laptop", "busctl", "list", check=False).stdout, name)
        with connected(lab, "resolved") as one:
            yield one
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            process.wait(10)
        lab.exec("laptop", "sh", "-c", UNDO)
        lab.client.delete(NAMESPACES, "resolved")


def ask(one: Connected, name: str) -> str:
    """What systemd-resolved says, as programs that use its interface hear it; empty if it says no."""
    return one.run(*CALL, MANAGER, "ResolveHostname", "isit", "0", name, "2", "0", check=False)


def domains(one: Connected) -> str:
    """What it knows of links' domains."""
    return one.run(
        "busctl",
        "--system",
        "get-property",
        "org.freedesktop.resolve1",
        "/org/freedesktop/resolve1",
        MANAGER,
        "Domains",
    )


def test_the_clusters_names_are_asked_for_there_alone(laptop: Connected) -> None:
    before = domains(laptop)
    result = laptop.connect()
    try:
        assert result["resolved"]
        assert '"cluster.local" true' in domains(laptop)
        for name in ("servers.resolved.svc.cluster.local", "servers", "servers.resolved", "servers.resolved.svc"):
            packed = " ".join(laptop.address("servers").split("."))
            assert packed in ask(laptop, name), name
        assert ask(laptop, "nobody.resolved.svc.cluster.local") == ""
        assert ask(laptop, "www.example.com") == "", "the laptop's resolver knows nothing, and nobody asks in circles"
        assert laptop.dig("@127.0.0.53", "servers.resolved.svc.cluster.local") == [laptop.address("servers")]
        assert laptop.get("http://servers/").startswith("servers-")
    finally:
        laptop.tproxy("disconnect")
    assert domains(laptop) == before
    assert laptop.as_before()


@pytest.mark.parametrize("guard", [False, True])
def test_a_killed_helper_leaves_it_as_it_was(laptop: Connected, guard: bool) -> None:
    before = domains(laptop)
    laptop.connect()
    assert domains(laptop) != before
    pids = laptop.helpers()
    if guard:
        laptop.kill(pids[1])
        laptop.lab.wait(lambda: len(now := laptop.helpers()) == 3 and pids[1] not in now, "another guard")
    laptop.kill(pids[0])
    laptop.lab.wait(lambda: laptop.as_before() and domains(laptop) == before, "nothing left")
    laptop.tproxy("disconnect", check=False)


SILENT = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", 53))
print("here", flush=True)
while True:
    sock.recv(4096)
"""


def test_a_resolver_that_does_not_answer_is_not_waited_for(laptop: Connected) -> None:
    """It is asked whether the namespace is a domain of the Internet's."""
    for _ in range(2):  # the first one may start the daemon
        usual = laptop.connect()["seconds"]
        laptop.tproxy("disconnect")
    conf = laptop.lab.layout.place_directory("laptop") / "resolv.conf.of-the-test"
    conf.write_text("nameserver 127.0.0.1\n")
    laptop.run("mount", "--bind", str(conf), "/etc/resolv.conf")
    server = laptop.lab.start("exec", "laptop", "--", "python", "-c", SILENT, stdout=subprocess.PIPE)
    try:
        assert server.stdout.readline() == "here\n"
        result = laptop.connect()
        assert result["resolved"]
        print(f"{usual:.1f} s, and {result['seconds']:.1f} s with a resolver that does not answer")
        assert result["seconds"] - usual < 2.0, "it would take four seconds to give up asking"
        assert laptop.address("servers").replace(".", " ") in ask(laptop, "servers.resolved.svc.cluster.local")
    finally:
        laptop.tproxy("disconnect", check=False)
        server.terminate()
        server.communicate()
        laptop.run("umount", "/etc/resolv.conf")
    laptop.lab.wait(laptop.as_before, "nothing left")
