"""A container's files on their way to a laptop: a tar archive (POSIX.1-2001) of regular files and nothing else.

The laptop believes nothing that is in it: names stay below the directory that it is unpacked into, and what is not a
regular file is refused.
"""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from tproxy.env.records import MAX_FILES_BYTES

MAX_FILES = 10_000
MAX_TOTAL_BYTES = MAX_FILES_BYTES // 2
"""What the files of a container may hold together."""

MAX_PATH_CHARACTERS = 4096


class ArchiveError(Exception):
    """An archive that must not be unpacked. The text carries nothing that is in it."""


@dataclass(frozen=True, slots=True)
class File:
    """One file. `path` is absolute in the container, normalised; of the mode only who may execute it is kept."""

    path: str
    data: bytes = field(repr=False)  # may be a secret
    executable: bool = False


def is_plain_path(path: str) -> bool:
    """Whether `path` is absolute and normalised, so that joined to a directory it stays below it."""
    parts = path.split("/")
    return (
        len(path) <= MAX_PATH_CHARACTERS
        and "\0" not in path
        and len(parts) > 1
        and parts[0] == ""
        and all(part not in ("", ".", "..") for part in parts[1:])
    )


def pack(files: Iterable[File]) -> bytes:
    """An archive of `files`, the same for the same files. Raises `ArchiveError` beyond the limits."""
    buffer = io.BytesIO()
    total = count = 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(files, key=lambda one: one.path):
            total, count = total + len(file.data), count + 1
            if total > MAX_TOTAL_BYTES or count > MAX_FILES:
                raise ArchiveError("more files than may be read at once")
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size = len(file.data)
            entry.mode = 0o700 if file.executable else 0o600
            archive.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


def unpack(archive: bytes) -> list[File]:
    """The files of an archive that anybody may have made. Raises `ArchiveError`."""
    files: dict[str, File] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:", format=tarfile.PAX_FORMAT) as opened:
            for entry in opened:
                path = f"/{entry.name}"
                total += entry.size
                if not entry.isreg() or entry.issparse() or not is_plain_path(path):
                    raise ArchiveError("an archive with something else than plain files in it")
                if len(files) >= MAX_FILES or total > MAX_TOTAL_BYTES or entry.size < 0:
                    raise ArchiveError("an archive that is too large")
                content = opened.extractfile(entry)
                data = content.read() if content is not None else b""
                if len(data) != entry.size:
                    raise ArchiveError("an archive that ends early")
                files[path] = File(path, data, bool(entry.mode & 0o100))
    except (tarfile.TarError, ValueError, OverflowError, EOFError, IndexError) as error:
        raise ArchiveError("an archive that cannot be read") from error
    # A file that another one's path leads through: neither can be told to be meant.
    for path in files:
        parts = path.split("/")
        if any("/".join(parts[:length]) in files for length in range(2, len(parts))):
            raise ArchiveError("an archive in which a file is a directory as well")
    return list(files.values())
