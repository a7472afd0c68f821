"""`tproxy node capture`, as a person uses it, read back by tcpdump."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.lab.conftest import environment
from tests.lab.laptop import TPROXY
from tests.lab.scene import PORT, Scene
from tests.lab.test_node_trace import following
from tproxy.kube.port import DEPLOYMENTS


def shown(path: Path) -> list[str]:
    """What tcpdump makes of a file, a packet to a line; it says nothing else about it."""
    done = subprocess.run(["tcpdump", "-nn", "-t", "-r", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "truncated" not in done.stderr
    return done.stdout.splitlines()


def asks(scene: Scene) -> None:
    scene.lab.exec("user", "curl", "-sg", f"http://{scene.address()}:{PORT}/")


def named(scene: Scene) -> str:
    return f"{scene.namespace}/{scene.pods()[0]['name']}"


def test_into_a_file_until_interrupted(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    with following(scene.lab, "capture", named(scene), "--port", str(PORT), "-o", str(file)) as capture:
        capture.until("capturing packets of pod")
        asks(scene)
        scene.lab.wait(lambda: "Flags [F." in "".join(shown(file)), "the end of the connection")
        said = capture.interrupt()
    assert capture.process.returncode == 0, said
    assert f"packets captured to {file}" in said
    assert file.stat().st_mode & 0o777 == 0o600
    lines = shown(file)
    assert f" {len(lines)} packets captured" in f" {said}"
    assert all(f"{scene.address()}.{PORT}" in line for line in lines)
    assert any("GET / HTTP/1.1" in line for line in lines)


def test_as_many_as_wanted_into_a_pipe(scene: Scene, tmp_path: Path) -> None:
    piped = tmp_path / "piped"
    line = [*TPROXY, "node", "capture", named(scene), "--packets", "3", "--port", str(PORT), "-o", "-"]
    with piped.open("wb") as stdout:
        process: Any = scene.lab.start("exec", "laptop", "--", *line, stdout=stdout, stderr=subprocess.PIPE)
        try:
            assert "capturing packets" in process.stderr.readline()
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                asks(scene)
            assert process.wait(1) == 0
            assert process.stderr.read() == "3 packets captured\n"
        finally:
            process.kill()
            process.communicate()
    assert len(shown(piped)) == 3


def test_until_the_pod_is_gone(lab: Any, namespace: str, tmp_path: Path) -> None:
    lab.apply(lab.server("brief"), namespace)
    pod = lab.ready_pod(namespace, "brief-")["name"]
    file = tmp_path / "brief.pcapng"
    with following(lab, "capture", f"{namespace}/{pod}", "--seconds", "300", "-o", str(file)) as capture:
        capture.until("capturing packets of pod")
        lab.client.delete(DEPLOYMENTS, "brief", namespace)
        said = capture.process.communicate(timeout=30)[0]
    assert capture.process.returncode == 0
    assert f"packets captured to {file}" in said
    shown(file)


def test_for_a_while(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    done = scene.tproxy("node", "capture", named(scene), "--seconds", "1", "--port", "9", "-o", str(file))
    assert f"0 packets captured to {file}" in done.stderr
    assert shown(file) == []


def test_what_cannot_be_captured(scene: Scene, tmp_path: Path) -> None:
    for arguments, message, code in (
        (("scene/none",), "none", 3),
        (("a/b/c",), "'a/b/c' is not NAMESPACE/NAME of a pod", 2),
        ((named(scene), "-o", str(tmp_path)), f"cannot write {tmp_path}: Is a directory", 2),
        ((named(scene), "--snap-length", "1"), "--snap-length", 2),
    ):
        done = scene.tproxy("node", "capture", *arguments, check=False)
        assert message in done.stderr, done.stderr
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_on_the_node_itself(scene: Scene, tmp_path: Path) -> None:
    node, file = scene.pods()[0]["node"], tmp_path / "web.pcapng"
    asked = (named(scene), "--port", str(PORT), "--packets", "2", "--socket", str(scene.lab.layout.daemon_socket(node)))
    with file.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "tproxy_node", "debug", "capture", *asked], stdout=stdout, env=environment()
        )
        try:
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                asks(scene)
            assert process.wait(1) == 0
        finally:
            process.kill()
            process.wait()
    assert len(shown(file)) == 2
