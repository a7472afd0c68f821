"""Why namespaces cannot be had, and the remedy: exact commands, for the reason that there is."""

import errno
import shlex
import sys
from pathlib import Path

import pytest
from tproxy_cli.run import restricted

from tproxy.errors import DeniedError


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's settings, as files that can be written."""
    monkeypatch.setattr(restricted, "APPARMOR", str(tmp_path / "apparmor"))
    monkeypatch.setattr(restricted, "DEBIAN", str(tmp_path / "debian"))
    monkeypatch.setattr(restricted, "CONTAINER", str(tmp_path / "container"))
    monkeypatch.setattr(
        restricted, "MAXIMA", {name: f"/proc/sys/{tmp_path.name}/{name}" for name in ("user", "network")}
    )
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "value", "why", "remedy"),
    [
        ("apparmor", "1\n", "AppArmor restricts", "apparmor_parser -r /etc/apparmor.d/tproxy"),
        ("debian", "0\n", "kernel.unprivileged_userns_clone is 0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("container", "", "this container forbids it", "--security-opt seccomp=unconfined"),
        ("none", "", "Operation not permitted", "unshare -Urn true"),
    ],
)
def test_the_setting_that_forbids_it_is_named(settings: Path, setting: str, value: str, why: str, remedy: str) -> None:
    (settings / setting).write_text(value)
    error = restricted.explain("user namespace", errno.EPERM)
    assert isinstance(error, DeniedError)
    assert "user namespace" in error.message
    assert why in error.message
    assert remedy in error.hint


def test_the_remedy_for_apparmor_is_for_our_interpreter_alone(settings: Path) -> None:
    (settings / "apparmor").write_text("1\n")
    command = restricted.explain("user namespace", errno.EPERM).hint.split("`")[1]
    words = shlex.split(command)
    assert words[:1] == ["echo"]
    assert str(Path(sys.executable).resolve()) in words[1]
    assert "userns" in words[1]
    assert words[2:5] == ["|", "sudo", "tee"]


def test_too_many_and_missing_modules(settings: Path) -> None:
    assert f"sudo sysctl {settings.name}.user=10000" in restricted.explain("user namespace", errno.ENOSPC).hint
    assert "too many" in restricted.explain("network namespace", errno.ENOSPC).message
    error = restricted.explain("rules: no chain by that name", 0)
    assert "no chain by that name" in error.message
    assert "modprobe -a xt_TPROXY" in error.hint
