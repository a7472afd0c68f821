"""What a container was given, on the laptop: which container, and a directory in which no other files come to harm."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tproxy_cli.daemon.given.directory import LIST, FilesDirectory
from tproxy_cli.daemon.given.source import choose
from tproxy_cli.daemon.requests import EnvironmentForm, InterceptRequest

from tproxy.env.archive import File
from tproxy.errors import ClusterError, InvalidError, TproxyError
from tproxy.model.pod import Container, ContainerPort, Pod

NAMES = st.sampled_from(["a", "b", "c"])
CONTENT = st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=3), max_size=4)


def pod(name: str, *containers: Container, ready: bool = True, phase: str = "Running", default: str = "") -> Pod:
    return Pod(
        "shop", name, f"uid-{name}", "node1", phase, ready=ready, containers=containers, default_container=default
    )


SIDE = Container("side")
APP = Container("app", (ContainerPort("http", 8080),))


@pytest.mark.parametrize(
    ("pods", "ports", "asked", "chosen"),
    [
        ([pod("b", APP), pod("a", APP)], (), "", ("a", "app")),
        ([pod("a", APP, ready=False), pod("b", APP)], (), "", ("b", "app")),
        ([pod("a", APP, phase="Pending"), pod("b", APP)], (), "", ("b", "app")),
        ([pod("a", SIDE, APP)], (), "", ("a", "side")),
        ([pod("a", SIDE, APP)], (8080,), "", ("a", "app")),
        ([pod("a", SIDE, APP)], (9090,), "", ("a", "side")),
        ([pod("a", SIDE, APP, default="app")], (9090,), "", ("a", "app")),
        ([pod("a", SIDE, APP, default="gone")], (), "", ("a", "side")),
        ([pod("a", SIDE, APP)], (8080,), "side", ("a", "side")),
        ([pod("a", SIDE), pod("b", APP)], (), "app", ("b", "app")),
    ],
)
def test_the_container_that_is_meant(
    pods: list[Pod], ports: tuple[int, ...], asked: str, chosen: tuple[str, str]
) -> None:
    found = choose(pods, ports, asked)
    assert (found.pod, found.container) == chosen


def test_without_one_it_is_said() -> None:
    with pytest.raises(ClusterError, match="none of its pods runs"):
        choose([pod("a", APP, phase="Pending")])
    with pytest.raises(InvalidError, match="has no container ap") as caught:
        choose([pod("a", SIDE, APP)], container="ap")
    assert caught.value.hint == "there are: `app`"


def seen(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != LIST]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CONTENT, min_size=1, max_size=4))
def test_a_directory_holds_what_was_written_last(
    tmp_path_factory: pytest.TempPathFactory, contents: list[dict[tuple[str, str], bytes]]
) -> None:
    place = tmp_path_factory.mktemp("files") / "x" / "y"
    directory = FilesDirectory(place)
    directory.check()
    assert not place.exists()
    directory.prepare()
    for content in contents:
        directory.write([File(f"/{first}/{second}", data) for (first, second), data in content.items()])
        assert seen(place) == {f"{first}/{second}": data for (first, second), data in content.items()}
    FilesDirectory(place).remove()  # by another daemon
    assert not place.exists()


def test_for_this_user_alone(tmp_path: Path) -> None:
    place = tmp_path / "files"
    place.mkdir(mode=0o755)
    directory = FilesDirectory(place)
    directory.prepare()
    directory.write([File("/etc/a", b"x"), File("/etc/run.sh", b"y", executable=True)])
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {
        "files": 0o700,
        f"files/{LIST}": 0o600,
        "files/etc": 0o700,
        "files/etc/a": 0o600,
        "files/etc/run.sh": 0o700,
    }
    directory.remove()
    assert list(place.iterdir()) == []  # it was there before


def test_unchanged_files_are_left_alone(tmp_path: Path) -> None:
    directory = FilesDirectory(tmp_path / "files")
    directory.prepare()
    directory.write([File("/a", b"1"), File("/b", b"1")])
    before = {name: (tmp_path / "files" / name).stat().st_ino for name in ("a", "b")}
    directory.write([File("/a", b"1"), File("/b", b"2")])
    after = {name: (tmp_path / "files" / name).stat().st_ino for name in ("a", "b")}
    assert (after["a"] == before["a"], after["b"] == before["b"]) == (True, False)


def test_other_peoples_files_come_to_no_harm(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    with pytest.raises(TproxyError, match="is not empty"):
        FilesDirectory(mine).check()
    with pytest.raises(TproxyError, match="is not empty"):
        FilesDirectory(mine).prepare()
    with pytest.raises(TproxyError, match="not a directory"):
        FilesDirectory(mine / "precious").check()
    place = tmp_path / "files"
    directory = FilesDirectory(place)
    directory.prepare()
    directory.write([File("/a/b", b"x")])
    (place / "a" / "mine").write_text("x")
    (place / "link").symlink_to(mine)
    with pytest.raises(TproxyError, match="is in the way"):
        directory.write([File("/a/b", b"x"), File("/link/precious", b"y")])
    directory.remove()
    assert (mine / "precious").read_text() == "x"
    assert (place / "a" / "mine").exists()
    assert not (place / "a" / "b").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 1, "made": true}', '{"files": ["../x"], "made": true}'])
def test_a_list_that_makes_no_sense_removes_nothing(tmp_path: Path, content: str) -> None:
    place = tmp_path / "files"
    FilesDirectory(place).prepare()
    (tmp_path / "x").touch()
    (place / LIST).write_text(content)
    with pytest.raises(TproxyError, match="makes no sense"):
        FilesDirectory(place).remove()
    assert (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for others than root
    with pytest.raises(TproxyError, match="not writable"):
        FilesDirectory(tmp_path / "a" / "b").check()


@pytest.mark.parametrize(
    "body",
    [
        {"files": "relative"},
        {"files": "/"},
        {"files": "/a/../b"},
        {"files": 1},
        {"environment": "sh"},
        {"environment": {"format": "csh", "include": [], "exclude": []}},
        {"environment": {"format": "sh", "include": "x", "exclude": []}},
        {"container": 1},
    ],
)
def test_requests_that_make_no_sense(body: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        InterceptRequest.of({"target": "web", "ports": ["3000"], **body})


def test_an_environment_as_it_was_asked_for() -> None:
    form = EnvironmentForm.of({"format": "json", "include": ["HOME"], "exclude": ["X*"]})
    variables = form.select({"HOME": "/", "PATH": "/bin", "X1": "1", "Y": "\udcff"})
    assert json.loads(form.render(variables)) == {"HOME": "/", "Y": "\udcff"}
