"""The archive is whole or not there, its maker's alone, bounded, and says what it lacks."""

import json
import tarfile
from pathlib import Path

import pytest
from tproxy_cli.gather import archive as archives
from tproxy_cli.gather.archive import Archive
from tproxy_cli.gather.secrets import REMOVED, Cleaner

from tproxy.errors import ClusterError, InvalidError, TproxyError


def entries(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read().decode()
    return found


def test_an_archive_has_its_entries_and_an_index(tmp_path: Path) -> None:
    path = tmp_path / "help.tar.gz"
    with Archive(path, Cleaner(["the-secret"])) as archive:
        archive.text("laptop/daemon.log", "it said the-secret aloud\n")
        archive.data("cluster/nodes.json", [{"name": "node1", "note": 'with "the-secret"'}])
        archive.attempt("cluster/pods.json", lambda: refuse("not with the-secret"))
        assert not path.exists()
    found = entries(path)
    assert found["help/laptop/daemon.log"] == f"it said {REMOVED} aloud\n"
    assert json.loads(found["help/cluster/nodes.json"]) == [{"name": "node1", "note": f'with "{REMOVED}"'}]
    index = json.loads(found["help/index.json"])
    assert [one["name"] for one in index["entries"]] == ["laptop/daemon.log", "cluster/nodes.json"]
    assert index["missing"] == [{"name": "cluster/pods.json", "why": f"not with {REMOVED}"}]
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def refuse(message: str) -> str:
    raise ClusterError(message)


def test_nothing_is_left_of_one_that_failed(tmp_path: Path) -> None:
    def begin() -> None:
        with Archive(tmp_path / "help.tar.gz", Cleaner()) as archive:
            archive.text("a", "b")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin()
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "help.tar.gz"
    path.write_text("mine")
    with pytest.raises(InvalidError, match="exists"):
        Archive(path, Cleaner())
    path.unlink()
    with pytest.raises(InvalidError, match="exists"), Archive(path, Cleaner()):
        path.write_text("somebody was faster")
    assert path.read_text() == "somebody was faster"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(TproxyError, match="No such file"):
        Archive(tmp_path / "nowhere" / "help.tar.gz", Cleaner())


def test_long_logs_keep_their_end_and_the_whole_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ENTRY_BYTES", 64)
    monkeypatch.setattr(archives, "TOTAL_BYTES", 100)
    path = tmp_path / "help.tgz"
    with Archive(path, Cleaner()) as archive:
        archive.text("long", "".join(f"line {number}\n" for number in range(100)))
        archive.text("late", "x" * 60)
    found = entries(path)
    lines = found["help/long"].splitlines()
    assert lines[-1] == "line 99"
    assert all(line.startswith("line ") for line in lines)
    assert len(found["help/long"]) <= 64
    assert "help/late" not in found
    index = json.loads(found["help/index.json"])
    assert index["entries"] == [{"name": "long", "bytes": len(found["help/long"]), "only": "its end"}]
    assert index["missing"][0]["name"] == "late"
