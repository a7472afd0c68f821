"""Directories are ours alone, or refused with what to do."""

import os
import stat
from pathlib import Path

import pytest
from tproxy_cli import paths

from tproxy.errors import TproxyError


def test_directories_are_made_for_their_user_alone(home: Path) -> None:
    os.umask(0o022)
    assert paths.runtime_dir() == home / "run" / "tproxy"
    assert paths.state_dir() == home / ".local" / "state" / "tproxy"
    for directory in (paths.runtime_dir(), paths.state_dir()):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_names_of_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    assert paths.socket_path() == home / "run" / "tproxy" / "daemon.sock"
    assert paths.lock_path() == home / "run" / "tproxy" / "daemon.lock"
    assert paths.log_path() == home / "state" / "tproxy" / "daemon.log"
    assert not (home / "state").exists(), "naming the log makes nothing"
    assert paths.sessions_path() == home / "state" / "tproxy" / "sessions.json"


@pytest.mark.parametrize("value", [None, "", "relative/dir", "/does/not/exist", "/dev/null"])
def test_without_a_usable_runtime_directory_it_is_in_tmp(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if value is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert paths._runtime_path() == Path(f"/tmp/tproxy-{os.getuid()}")  # noqa: S108


def test_another_users_runtime_directory_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sudo -E` leaves it."""
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert paths._runtime_path() == Path("/tmp/tproxy-54321")  # noqa: S108


def test_a_directory_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.state_dir()
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(TproxyError, match=rf"belongs to another user \(uid {uid}\)"):
        paths.state_dir()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_somebody_elses_link_to_a_directory_of_ours_is_refused(home: Path) -> None:
    (home / "ours").mkdir(mode=0o700)
    link = home / "run" / "tproxy"
    link.symlink_to(home / "ours")
    assert paths.runtime_dir() == link, "a link of our own will do"
    os.chown(link, 54321, 54321, follow_symlinks=False)
    with pytest.raises(TproxyError, match="belongs to another user"):
        paths.runtime_dir()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_open_to_others_is_refused(home: Path, mode: int) -> None:
    (home / "run" / "tproxy").mkdir()
    (home / "run" / "tproxy").chmod(mode)
    with pytest.raises(TproxyError, match=f"open to other users .mode {mode:04o}") as caught:
        paths.runtime_dir()
    assert f"chmod 700 {home}/run/tproxy" in caught.value.hint


def test_a_file_in_the_way(home: Path) -> None:
    (home / "run" / "tproxy").write_text("")
    with pytest.raises(TproxyError, match="is not a directory"):
        paths.runtime_dir()


def test_a_parent_that_is_a_file(home: Path) -> None:
    (home / ".local").write_text("")
    with pytest.raises(TproxyError, match=r"cannot create the directory .*: Not a directory"):
        paths.state_dir()


def test_a_path_too_long_for_a_socket(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = home / ("d" * 90)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(TproxyError, match="too long for a unix socket") as caught:
        paths.runtime_dir()
    assert "XDG_RUNTIME_DIR" in caught.value.hint
    assert not (deep / "tproxy").exists()


def test_the_configuration_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.config_path() == f"{home}/.config/tproxy/config.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert paths.config_path() == "/etc/xdg/tproxy/config.yaml"
    monkeypatch.setenv("TPROXY_CONFIG", "/etc/tproxy.yaml")
    assert paths.config_path() == "/etc/tproxy.yaml"
