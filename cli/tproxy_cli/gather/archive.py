"""The archive: a tar of bounded size that only its maker can read, complete or not there at all."""

import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tproxy.errors import InvalidError, TproxyError
from tproxy_cli.gather.secrets import Cleaner

ENTRY_BYTES = 4 << 20
"""The longest entry; of a longer text the end is kept, where a log has its news."""

TOTAL_BYTES = 64 << 20
"""Of all entries before compression; what comes later is left out, and the index says so."""

INDEX = "index.json"


class Archive:
    """Entries on their way into `path`; used as a context, at whose orderly end the file appears.

    Everything goes through `cleaner`. Raises InvalidError if `path` exists, TproxyError if it cannot be written.
    """

    def __init__(self, path: Path, cleaner: Cleaner) -> None:
        self.path = path
        self.cleaner = cleaner
        self.entries = 0
        self.missing: list[dict[str, str]] = []
        self._index: list[dict[str, Any]] = []
        self._bytes = 0
        self._root = path.name.removesuffix(".tar.gz").removesuffix(".tgz") or "tproxy-logs"
        if path.exists():
            raise InvalidError(f"{path} exists", "name another file with `--file`")
        try:
            # Mode 0600, beside its place: it can become the file at once.
            descriptor, self._temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as error:
            raise TproxyError(
                f"cannot write {path}: {error.strerror}", "name another place with `--file FILE`"
            ) from error
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w:gz")  # noqa: SIM115 -- closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as error:
            raise TproxyError(f"cannot write {self.path}: {error.strerror}", "make room, then try again") from error
        finally:
            self._file.close()
            if os.path.exists(self._temporary):
                os.unlink(self._temporary)

    def text(self, name: str, text: str) -> None:
        """Add a text."""
        data = self.cleaner.text(text).encode(errors="replace")
        cut = len(data) > ENTRY_BYTES
        if cut:
            data = data[-ENTRY_BYTES:].partition(b"\n")[2]
        if self._bytes + len(data) > TOTAL_BYTES:
            self.lacks(name, f"the archive would be larger than {TOTAL_BYTES >> 20} MiB")
            return
        self._bytes += len(data)
        self.entries += 1
        self._index.append({"name": name, "bytes": len(data), **({"only": "its end"} if cut else {})})
        self._put(name, data)

    def data(self, name: str, value: Any) -> None:
        """Add a document, as JSON."""
        # Cleaned before it is written down, where a secret with a quote in it would look different.
        self.text(name, json.dumps(self.cleaner.data(value), indent=1, ensure_ascii=False))

    def lacks(self, name: str, why: str) -> None:
        """Say in the index what could not be had."""
        self.missing.append({"name": name, "why": self.cleaner.text(why)})

    def attempt(self, name: str, make: Callable[[], Any]) -> None:
        """Add the text or document that `make` returns; what it raises for a person becomes what is missing."""
        try:
            made = make()
        except TproxyError as error:
            self.lacks(name, error.message)
        except OSError as error:
            self.lacks(name, error.strerror or type(error).__name__)
        else:
            (self.text if isinstance(made, str) else self.data)(name, made)

    def _finish(self) -> None:
        index = {"made": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "entries": self._index, "missing": self.missing}
        self._put(INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        # A link, for a rename would replace what appeared there meanwhile.
        try:
            os.link(self._temporary, self.path)
        except FileExistsError as error:
            raise InvalidError(f"{self.path} exists", "name another file with `--file`") from error

    def _put(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(f"{self._root}/{name}")
        entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
        self._tar.addfile(entry, io.BytesIO(data))
