"""A container's files in a run: in a file system of the run's own, and seen at the paths that they have in the pod.

The process inside keeps them; they come from the daemon (`tproxy_cli.daemon.runs.giving`), as often as they change.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tproxy.env.archive import MAX_TOTAL_BYTES, ArchiveError, unpack
from tproxy.errors import TproxyError
from tproxy_cli.daemon.given.directory import FilesDirectory
from tproxy_cli.run import grafts
from tproxy_cli.run.mounts import MS_NODEV, MS_NOSUID, RESOLV_CONF, mount
from tproxy_cli.run.packets import Json

_SYSTEM = ("/bin", "/dev", "/etc/hosts", "/etc/passwd", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr/lib", "/var")


class Files:
    """Below `scratch`, a directory that only the run sees, or below one of the laptop's."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._directory: FilesDirectory | None = None
        self._left: list[tuple[str, str]] = []
        self._made: list[str] = []
        self._stand_ins: set[str] = set()

    def take(self, archive: bytes, mounts: Sequence[str], directory: str) -> Json:
        """Hold exactly these files; the first time make them seen at `mounts`. What there is to be known of it: where
        they are, and which paths cannot be seen and why. Raises TproxyError."""
        try:
            files = unpack(archive)
        except ArchiveError as error:
            raise TproxyError(f"the daemon sent {error}", "`tproxy version` compares versions") from error
        first = self._directory is None
        if self._directory is None:
            self._directory = self._prepare(directory, mounts)
        self._directory.write(files)
        if first:
            present = {file.path for file in files}
            kept = needed(os.environ, os.getcwd())
            for number, path in enumerate(sorted(mounts)):
                self._show(path, path in present, kept, number)
        return {"directory": str(self._directory.path), "left": self._left}

    def close(self) -> None:
        """Remove what is on the laptop's disk."""
        for path in self._made:
            with suppress(OSError):
                grafts.remove(path)
        if self._directory is not None:
            with suppress(TproxyError):
                self._directory.remove()

    def _prepare(self, directory: str, mounts: Sequence[str]) -> FilesDirectory:
        if not directory:
            directory = os.path.join(self._scratch, "files")
            os.mkdir(directory, 0o700)
            mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=0700,size={4 * MAX_TOTAL_BYTES}")
        # What is mounted must stay the same directory, even while there is nothing in it.
        ours = FilesDirectory(Path(directory), frozenset(path.lstrip("/") for path in mounts))
        ours.prepare()
        return ours

    def _show(self, path: str, is_file: bool, kept: Sequence[str], number: int) -> None:
        assert self._directory is not None  # noqa: S101
        source = self._directory.path / path.lstrip("/")
        scratch = os.path.join(self._scratch, f"graft-{number}")
        try:
            graft = grafts.plan(path, kept, os.path.realpath, os.path.exists, self._writable)
            if not is_file:
                self._directory.make(path)
            os.mkdir(scratch)
            if graft.stand_in:
                self._stand_ins.add(graft.stand_in)
            self._made[:0] = grafts.apply(graft, str(source), scratch)
        except grafts.NotPossibleError as error:
            self._left.append((path, str(error)))
        except OSError as error:
            self._left.append((path, error.strerror or str(error)))

    def _writable(self, directory: str) -> bool:
        return directory in self._stand_ins or os.access(directory, os.W_OK)


def needed(environment: Mapping[str, str], directory: str) -> Sequence[str]:
    """Real paths of the laptop's that a command cannot do without."""
    paths = [*_SYSTEM, tempfile.gettempdir(), RESOLV_CONF, sys.prefix, sys.base_prefix, directory]
    paths += [environment[name] for name in ("HOME", "XDG_RUNTIME_DIR") if environment.get(name)]
    paths += environment.get("PATH", os.defpath).split(os.pathsep)
    return sorted({os.path.realpath(path) for path in paths if os.path.isabs(path) and os.path.exists(path)})
