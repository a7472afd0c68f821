"""Attaching where it cannot be: a clear error, and nothing half done."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.namespaces import PodNetwork
from tproxy.errors import DeniedError, TproxyError
from tproxy.steer import sk_lookup
from tproxy.steer.port import SteeredPort, Steering
from tproxy.steer.sk_lookup import SkLookup

ROOT = Path(__file__).parents[2]
PORTS = [SteeredPort(8080)]

ATTACH = """
import sys
from tproxy.errors import TproxyError
from tproxy.netns.handle import Netns
from tproxy.steer.port import SteeredPort
from tests.kernel.backends import BACKENDS
try:
    BACKENDS[sys.argv[2]]().attach(Netns.open(sys.argv[1]), [SteeredPort(8080)])
except TproxyError as error:
    print(type(error).__name__, error.message)
else:
    print("attached")
"""


@pytest.mark.parametrize("missing", ["sys_admin", "sys_admin,-bpf", "all"])
def test_without_capabilities(network: PodNetwork, backend: str, missing: str) -> None:
    command = ["setpriv", f"--bounding-set=-{missing}", sys.executable, "-c", ATTACH, network.pod.path, backend]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert re.match(
        r"DeniedError cannot steer .*: the kernel denies it \(.*Operation not permitted\)\n$", result.stdout
    )
    assert result.stderr == "", "libraries keep quiet"


def _descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_any_failure_on_the_way_undoes_everything(network: PodNetwork, steering: Steering) -> None:
    """With room for ever more descriptors, attaching fails at every step that needs one, until it succeeds."""
    with contextlib.ExitStack() as stack:
        _fail_at_every_step(network, steering, _filled(stack))


def _filled(stack: contextlib.ExitStack) -> int:
    """Fill the gaps among this process' descriptors and say what the next one will be."""
    highest = max(map(int, _descriptors()))
    while True:
        fd = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, fd)
        if fd >= highest:
            return fd + 1


def _fail_at_every_step(network: PodNetwork, steering: Steering, next_descriptor: int) -> None:
    before = _descriptors()
    state = network.pod.state()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failures: list[TproxyError] = []
    attachment = None
    while attachment is None:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (next_descriptor + len(failures), hard))
            attachment = steering.attach(network.pod.netns, PORTS)
        except TproxyError as error:
            failures.append(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if attachment is None:
            assert len(_descriptors()) == len(before)
            assert network.pod.state() == state
    assert len(failures) > 4
    assert all("too many open files" in error.message and "ulimit" in error.hint for error in failures)
    attachment.close()


def test_program_not_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sk_lookup, "OBJECT", tmp_path / "sk_lookup.bpf.o")
    with pytest.raises(TproxyError) as caught:
        SkLookup()
    assert "has not been compiled" in caught.value.message
    assert "make bpf" in caught.value.hint


def test_damaged_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "sk_lookup.bpf.o"
    damaged.write_bytes(sk_lookup.OBJECT.read_bytes()[:3000])
    monkeypatch.setattr(sk_lookup, "OBJECT", damaged)
    with pytest.raises(TproxyError, match="cannot steer with sk_lookup"):
        SkLookup()
    assert capfd.readouterr().err == ""


def test_the_verifier_has_its_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A program that the kernel refuses: the error carries the end of the verifier's log."""
    folder = tmp_path / "bpf"
    shutil.copytree(ROOT / "bpf", folder)
    program = folder / "sk_lookup.bpf.c"
    source = program.read_text()
    program.write_text(source.replace("if (!counters)", "if (0)"))
    assert program.read_text() != source
    subprocess.run(["make", "-sC", folder, f"OUT={tmp_path}", f"TRACE={tmp_path}"], check=True)
    monkeypatch.setattr(sk_lookup, "OBJECT", tmp_path / "sk_lookup.bpf.o")
    with pytest.raises(TproxyError, match="map_value_or_null") as caught:
        SkLookup()
    assert not isinstance(caught.value, DeniedError)
    assert capfd.readouterr().err == ""
