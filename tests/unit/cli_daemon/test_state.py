"""What the daemon saves: it comes back as it was, nobody else can read it, and damage is survived."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tproxy_cli.daemon.state import LaptopPort, SavedIntercept, SavedSession, StateFile

from tests.unit.model.objects import matches
from tproxy.model.intercept import InterceptPort, Target

_names = st.text(min_size=1, max_size=20)
_ports = st.integers(1, 65535)
_intercepts = st.builds(
    SavedIntercept,
    name=_names,
    uid=st.text(max_size=36),
    target=st.builds(Target, kind=_names, name=_names),
    ports=st.lists(
        st.builds(LaptopPort, laptop=_ports, pod=st.builds(InterceptPort, _ports, st.sampled_from(["TCP", "UDP"]))),
        max_size=3,
    ).map(tuple),
    on_disconnect=st.sampled_from(["fallback", "fail"]),
    probes=st.sampled_from(["app", "laptop"]),
    existing=st.sampled_from(["idle", "keep", "reset"]),
    drain_seconds=st.integers(0, 3600),
    match=st.none() | matches,
    on_refused=st.sampled_from(["fail", "fallback"]),
)
_sessions = st.builds(
    SavedSession,
    kubeconfig=st.none() | _names,
    context=st.text(max_size=20),
    namespace=_names,
    name=_names,
    uid=st.text(max_size=36),
    token=st.binary(min_size=32, max_size=32),
    user=st.text(max_size=20),
    ttl_seconds=st.integers(3600, 86400),
    renewed_at=st.floats(0, 4e9),
    intercepts=st.lists(_intercepts, max_size=3).map(tuple),
)


@given(sessions=st.lists(_sessions, max_size=3))
def test_what_is_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, sessions: list[SavedSession]) -> None:
    state = StateFile(tmp_path_factory.mktemp("state") / "sessions.json")
    state.save(sessions)
    assert state.load() == sessions


def test_only_the_user_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    previous = os.umask(0)
    try:
        StateFile(path).save([])
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["sessions.json"]


def test_a_failed_save_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    StateFile(path).save([])
    before = path.read_bytes()
    bad = SavedSession(None, "c", "n", "s", "", b"", "u", 3600, object(), ())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        StateFile(path).save([bad])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["sessions.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format": 99}', b'{"format": 1, "sessions": [{}]}', b'{"format": 1, "sessions": 3}', b"\xff"],
)
def test_damage_is_put_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sessions.json"
    path.write_bytes(content)
    assert StateFile(path).load() == []
    assert not path.exists()
    assert (tmp_path / "sessions.broken").read_bytes() == content


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert StateFile(tmp_path / "sessions.json").load() == []


def test_the_token_stays_out_of_logs() -> None:
    session = SavedSession(None, "lab", "shop", "s", "", b"\x00secret" * 4, "ann", 3600, 0.0, ())
    assert "secret" not in f"{session} {session!r}"
