"""A container's files on the laptop's disk: below one directory that belongs to them, for this user alone.

    DIR/etc/config/app.yaml         the container's /etc/config/app.yaml, mode 0600, directories 0700
    DIR/.tproxy-files.json          which files are ours: they may be replaced, and are removed in the end

Each file is replaced as a whole, by renaming. The list is written before the files that it names, so that whatever
happens nothing is left that a later run would not know as its own.
"""

import json
import os
import stat
import tempfile
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from tproxy.env.archive import File, is_plain_path
from tproxy.errors import TproxyError

LIST = ".tproxy-files.json"
_MAX_LIST_BYTES = 64 * 1024 * 1024


def overlap(one: str, other: str) -> bool:
    """Whether one of two paths is the other, or leads into it. Nothing overlaps an empty one."""
    return bool(one and other) and (Path(one).is_relative_to(other) or Path(other).is_relative_to(one))


class FilesDirectory:
    """The directory at an absolute `path`."""

    def __init__(self, path: Path, kept: Collection[str] = ()) -> None:
        """`kept` are directories below it, relative, that stay also while they are empty, until `remove`."""
        self.path = path
        self._kept = kept

    def check(self) -> None:
        """Raise TproxyError unless it does not exist, is empty, or holds what an earlier run left. Changes nothing."""
        hint = "`--files` takes an empty directory, or one that does not exist yet"
        try:
            found = self.path.stat()
            if not stat.S_ISDIR(found.st_mode):
                raise TproxyError(f"{self.path} is not a directory", hint)
            if found.st_uid != os.getuid():
                raise TproxyError(f"{self.path} belongs to another user", hint)
            if not (self.path / LIST).exists() and any(self.path.iterdir()):
                raise TproxyError(f"{self.path} is not empty, and what is in it is not ours", hint)
        except FileNotFoundError:
            parent = next(one for one in self.path.parents if one.exists())
            if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
                raise TproxyError(f"cannot make {self.path}: {parent} is not writable", hint) from None
        except OSError as error:
            raise TproxyError(f"cannot use {self.path}: {error.strerror}", hint) from error

    def prepare(self) -> None:
        """Make it ours. Raises TproxyError."""
        self.check()
        try:
            made = not self.path.exists()
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            if not (self.path / LIST).exists():
                self._save([], made)
        except OSError as error:
            raise TproxyError(f"cannot use {self.path}: {error.strerror}", f"`ls -ld {self.path}`") from error

    def write(self, files: Sequence[File]) -> None:
        """Make it hold exactly `files`. Raises TproxyError."""
        try:
            before, made = self._load()
            wanted = [file.path.lstrip("/") for file in files]
            self._save(sorted({*before, *wanted}), made)
            self._delete(set(before) - set(wanted), self._kept)
            for file in files:
                self._put(file)
            self._save(wanted, made)
        except OSError as error:
            where = error.filename or self.path
            raise TproxyError(f"cannot write {where}: {error.strerror}", f"`ls -ld {self.path}`") from error

    def remove(self) -> None:
        """Delete what was written, and the directory if it was made here and nothing else is in it.

        Raises TproxyError; without the list nothing is ours and nothing happens.
        """
        try:
            before, made = self._load()
            self._delete(before)
            (self.path / LIST).unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # something of the user's is in it
                    self.path.rmdir()
        except OSError as error:
            raise TproxyError(f"cannot remove {self.path}: {error.strerror}", f"`rm -r {self.path}`") from error

    def _put(self, file: File) -> None:
        target = self.path / file.path.lstrip("/")
        self._make_directory(target.parent)
        mode = 0o700 if file.executable else 0o600
        with suppress(FileNotFoundError):
            found = target.lstat().st_mode
            if not stat.S_ISREG(found):
                raise TproxyError(f"{target} is in the way", f"move it out of {self.path}")
            if stat.S_IMODE(found) == mode and target.read_bytes() == file.data:
                return  # so that programs that watch it are not woken for nothing
        descriptor, temporary = tempfile.mkstemp(prefix=".tproxy-", dir=target.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(file.data)
                os.fchmod(opened.fileno(), mode)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def _make_directory(self, directory: Path) -> None:
        for parent in [*reversed(directory.relative_to(self.path).parents), directory.relative_to(self.path)]:
            place = self.path / parent
            if place.is_symlink():
                raise TproxyError(f"{place} is in the way", f"move it out of {self.path}")
            with suppress(FileExistsError):
                place.mkdir(mode=0o700)

    def make(self, path: str) -> None:
        """Make a directory for the container's `path`, which is absolute. Raises OSError, TproxyError."""
        self._make_directory(self.path / path.lstrip("/"))

    def _delete(self, names: Iterable[str], kept: Collection[str] = ()) -> None:
        """Delete files of ours and the directories that they leave empty, but those of `kept`."""
        parents: set[Path] = set()
        for name in names:
            target = self.path / name
            if self._leads_elsewhere(target.parent):
                continue
            with suppress(FileNotFoundError, NotADirectoryError):
                target.unlink()
            parents.update(self.path / one for one in Path(name).parents if one != Path(".") and str(one) not in kept)
        for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):
                parent.rmdir()

    def _leads_elsewhere(self, directory: Path) -> bool:
        """Whether somebody has put a link into our directory through which its files would be somebody else's."""
        below = directory.relative_to(self.path)
        return any((self.path / part).is_symlink() for part in [below, *below.parents] if part != Path("."))

    def _load(self) -> tuple[list[str], bool]:
        try:
            with (self.path / LIST).open("rb") as file:
                found = json.loads(file.read(_MAX_LIST_BYTES))
            names = [str(name) for name in found["files"]]
            if not all(is_plain_path(f"/{name}") for name in names):
                raise ValueError("a name that leads elsewhere")
            return names, bool(found["made"])
        except FileNotFoundError:
            return [], False
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TproxyError(f"{self.path / LIST} makes no sense", f"`rm -r {self.path}`") from error

    def _save(self, names: Sequence[str], made: bool) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=".tproxy-", dir=self.path)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump({"files": list(names), "made": made}, file)
            os.replace(temporary, self.path / LIST)
        except BaseException:
            os.unlink(temporary)
            raise
