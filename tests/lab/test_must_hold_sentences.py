"""What cannot work is said in a sentence, with a hint and an exit code, and never by a traceback."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab.laptop import TPROXY
from tests.lab.scene import Scene
from tproxy.lab.layout import Layout

WITHOUT_BPF = """
import ctypes, errno, os, struct, sys
# Every bpf() fails as it does where the kernel has none: load the number; if it is bpf, fail with ENOSYS; allow.
number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
filter = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
assert ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.create_string_buffer(filter), 0, 0) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


def is_a_sentence(done: Any, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert "error: " in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def kubeconfig(layout: Layout, path: Path, server: str) -> str:
    """The laptop's, with another server."""
    config = json.loads(layout.laptop_kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize("server", ["http://10.99.0.1:9", "https://10.99.0.1:6443", "http://nowhere.example:6443"])
def test_a_cluster_that_is_not_there(scene: Scene, tmp_path: Path, server: str) -> None:
    config = kubeconfig(scene.lab.layout, tmp_path / "config", server)
    done = scene.tproxy("intercept", "web", "-p", "3000", "--kubeconfig", config, check=False)
    is_a_sentence(done, 3, server.partition("//")[2].partition(":")[0])


def test_kubeconfigs_that_are_none(scene: Scene, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("clusters: [what\n")
    for value in ("/nowhere/config", str(broken), str(tmp_path)):
        asked = ("env", f"KUBECONFIG={value}", *TPROXY, "intercept", "web", "-p", "3000")
        is_a_sentence(scene.lab.exec("laptop", *asked, check=False), 3, value)


def test_without_the_right(scene: Scene) -> None:
    """The node daemons' account may read, but create nothing."""
    config = str(scene.lab.layout.daemon_kubeconfig)
    asked = ("intercept", "web", "-p", "3000", "-n", scene.namespace, "--kubeconfig", config)
    is_a_sentence(scene.tproxy(*asked, check=False), 4, "create", "sessions")
    assert scene.seen() == "pod"


@pytest.mark.parametrize(
    ("around", "words"),
    [
        (("setpriv", "--bounding-set=-sys_admin,-net_admin"), ("lacks the capabilities",)),
        ((sys.executable, "-c", WITHOUT_BPF), ("cannot steer", "kernel")),
    ],
    ids=["capabilities", "no bpf"],
)
def test_a_node_that_cannot_steer(scene: Scene, around: tuple[str, ...], words: tuple[str, ...]) -> None:
    place, ports = "pod/tproxy-system/tproxy-node-node1", ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    config = str(scene.lab.layout.daemon_kubeconfig)
    daemon = (
        "python",
        "-m",
        "tproxy_node",
        "--steering",
        "sk_lookup",
        "--node",
        "node1",
        "--kubeconfig",
        config,
        *ports,
    )
    is_a_sentence(scene.lab.exec(place, *around, *daemon, check=False), 3, *words)


def test_a_port_that_another_person_has(scene: Scene, tmp_path: Path) -> None:
    """The first keeps it; the second, with a daemon of its own, learns who has it."""
    tmp_path.chmod(0o700)
    other = ("env", f"XDG_RUNTIME_DIR={tmp_path}", f"XDG_STATE_HOME={tmp_path}")
    again = (*TPROXY, "intercept", "web", "-p", "3900:8080", "-n", scene.namespace)
    with scene.intercepted():
        try:
            is_a_sentence(scene.lab.exec("laptop", *other, *again, check=False), 5, "8080", "developer")
            assert scene.seen() == "laptop"
        finally:
            scene.lab.exec("laptop", *other, *TPROXY, "quit", check=False)
        assert scene.seen() == "laptop"
