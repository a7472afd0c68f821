"""Records and archives: what comes out is what went in, and of anybody's bytes nothing dangerous."""

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.env import archive
from tproxy.env.archive import ArchiveError, File, pack, unpack
from tproxy.env.environ import parse, select
from tproxy.env.records import MAX_ENVIRON_BYTES, RecordError, RecordKind, RecordReader, record

PAYLOADS = st.tuples(st.sampled_from([RecordKind.ENVIRON, RecordKind.FILES]), st.binary(max_size=200))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
PARTS = NAMES.filter(lambda name: name not in (".", ".."))
FILES = st.builds(
    File, st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/x/" + "/".join(parts)), st.binary(), st.booleans()
)


@given(st.lists(PAYLOADS, max_size=5), st.integers(1, 50))
def test_records_come_whole_however_they_are_cut(sent: list[tuple[RecordKind, bytes]], size: int) -> None:
    wire = b"".join(record(kind, payload) for kind, payload in sent)
    reader = RecordReader()
    got = [one for at in range(0, len(wire), size) for one in reader.feed(wire[at : at + size])]
    assert got == sent


@given(st.binary(max_size=300))
def test_of_any_bytes_come_records_or_an_error(data: bytes) -> None:
    with suppress(RecordError):
        for kind, payload in RecordReader().feed(data):
            assert record(kind, payload)


def test_a_record_that_claims_to_be_huge_is_refused_at_once() -> None:
    with pytest.raises(RecordError, match="too long"):
        record(RecordKind.ENVIRON, bytes(MAX_ENVIRON_BYTES + 1))
    header = record(RecordKind.ENVIRON)[:1] + (MAX_ENVIRON_BYTES + 1).to_bytes(4)
    with pytest.raises(RecordError, match="too long"):
        list(RecordReader().feed(header))


@given(st.lists(FILES, max_size=4, unique_by=lambda file: file.path))
def test_an_archive_is_unpacked_as_packed(files: list[File]) -> None:
    paths = {file.path for file in files}
    clash = any(other.startswith(f"{path}/") for path in paths for other in paths)
    if clash:
        with pytest.raises(ArchiveError):
            unpack(pack(files))
    else:
        assert unpack(pack(files)) == sorted(files, key=lambda file: file.path)


@given(st.binary(max_size=2000))
def test_of_any_bytes_comes_nothing_that_leads_elsewhere(data: bytes) -> None:
    try:
        files = unpack(data)
    except ArchiveError:
        return
    assert all(archive.is_plain_path(file.path) for file in files)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../etc/passwd", tarfile.REGTYPE),
        ("/etc/passwd", tarfile.REGTYPE),
        ("a/../../b", tarfile.REGTYPE),
        ("a//b", tarfile.REGTYPE),
        ("./a", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("device", tarfile.CHRTYPE),
        ("pipe", tarfile.FIFOTYPE),
        ("directory", tarfile.DIRTYPE),
    ],
)
def test_hostile_entries_are_refused(name: str, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        opened.addfile(entry)
    with pytest.raises(ArchiveError):
        unpack(buffer.getvalue())


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack([File("/a", b"12345"), File("/b", b"")])
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 4)
    with pytest.raises(ArchiveError):
        unpack(packed)
    with pytest.raises(ArchiveError):
        pack([File("/a", b"12345")])
    monkeypatch.setattr(archive, "MAX_FILES", 1)
    with pytest.raises(ArchiveError):
        pack([File("/a", b""), File("/b", b"")])


def test_a_file_does_not_show_what_is_in_it() -> None:
    assert "secret" not in repr(File("/a", b"secret"))


def test_an_environment_as_the_kernel_shows_it() -> None:
    assert parse(b"A=1\0B=x=y\0\0nonsense\0=empty\0A=2\0RAW=\xff\0") == {"A": "1", "B": "x=y", "RAW": "\udcff"}
    assert parse(b"") == {}


def test_what_only_the_container_needs_stays_there() -> None:
    variables = {"PATH": "/bin", "HOME": "/root", "DB_PASSWORD": "x", "DB_HOST": "y"}
    assert select(variables) == {"DB_HOST": "y", "DB_PASSWORD": "x"}
    assert select(variables, ["PATH"], ["*_PASSWORD"]) == {"DB_HOST": "y", "PATH": "/bin"}
    assert select(variables, ["*"], ["DB_*"]) == {"HOME": "/root", "PATH": "/bin"}
