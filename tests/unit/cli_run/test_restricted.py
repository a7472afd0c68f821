"""Why namespaces cannot be had, and the remedy: exact commands, for the reason that there is."""

import errno
import shlex
import sys
from pathlib import Path

import pytest
from tproxy_cli.run import restricted

from tproxy.errors import DeniedError
from tproxy.netns.userns import RIGHTS


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's settings, as files that can be written."""
    monkeypatch.setattr(restricted, "APPARMOR", str(tmp_path / "apparmor"))
    monkeypatch.setattr(restricted, "DEBIAN", str(tmp_path / "debian"))
    monkeypatch.setattr(restricted, "CONTAINERS", (str(tmp_path / "container"),))
    maxima = {f"a {name} namespace": str(tmp_path / name) for name in ("user", "network", "mount")}
    monkeypatch.setattr(restricted, "MAXIMA", maxima)
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "value", "why", "remedy"),
    [
        ("apparmor", "1\n", "AppArmor restricts", "apparmor_parser -r /etc/apparmor.d/tproxy"),
        ("apparmor", "1\n", "AppArmor restricts", "apparmor=0`"),
        ("debian", "0\n", "debian is 0", "debian=1`"),
        ("container", "", "this container forbids it", "--security-opt seccomp=unconfined"),
        ("none", "", "Operation not permitted", "unshare -Urn true"),
    ],
)
@pytest.mark.parametrize("step", ["a user namespace", RIGHTS])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_the_setting_that_forbids_it_is_named(
    settings: Path, setting: str, value: str, why: str, remedy: str, step: str, number: int
) -> None:
    (settings / setting).write_text(value)
    error = restricted.explain(step, number)
    assert isinstance(error, DeniedError)
    assert error.message.startswith(f"this system does not let you have {step}: ")
    if setting != "none" or number == errno.EPERM:
        assert why in error.message
    assert remedy in error.hint
    assert ("tproxy run --sudo" in error.hint) == (setting != "container"), "root in a container is as restricted"


def test_the_remedy_for_apparmor_is_for_our_interpreter_alone(settings: Path) -> None:
    (settings / "apparmor").write_text("1\n")
    command = restricted.explain("a user namespace", errno.EPERM).hint.split("`")[1]
    words = shlex.split(command)
    assert words[:1] == ["echo"]
    assert f'"{Path(sys.executable).resolve()}"' in words[1]
    assert "userns" in words[1]
    assert words[2:5] == ["|", "sudo", "tee"]


@pytest.mark.parametrize("kind", ["user", "network", "mount"])
def test_limits_hold_for_root_too(settings: Path, kind: str) -> None:
    (settings / "apparmor").write_text("1\n")  # which is not why
    for value, why, remedy in (("0", f"{kind} is 0", "=1000`"), ("64", "there are too many already", "=10000`")):
        (settings / kind).write_text(value)
        error = restricted.explain(f"a {kind} namespace", errno.ENOSPC)
        assert why in error.message
        assert f"{kind}{remedy}" in error.hint
        assert "--sudo" not in error.hint


def test_missing_modules(settings: Path) -> None:
    error = restricted.explain("rules: no chain by that name", 0)
    assert "no chain by that name" in error.message
    assert "modprobe -a xt_TPROXY" in error.hint
