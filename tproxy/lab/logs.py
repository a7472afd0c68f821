"""Captured output of containers: plain files that processes append to themselves, bounded by the kubelet.

Writing costs the lab server nothing, and a process goes on writing when the server has died. A file that has grown
too long is cut in place: its last part moves to its beginning, and what is appended in between may be lost.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 8 * 1024 * 1024
_KEPT_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_POLL_SECONDS = 0.05


def open_log(path: Path) -> BinaryIO:
    """Open a container's log for appending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab", buffering=0)


def cut(path: Path, limit: int = MAX_BYTES, kept: int = _KEPT_BYTES) -> None:
    """If the file is longer than `limit` bytes, keep only its last whole lines of together at most `kept` bytes."""
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            return
        file.seek(size - kept)
        tail = file.read(kept)
        file.truncate(0)
    # Appending keeps what a process may have written since the file was emptied.
    with path.open("ab", buffering=0) as file:
        file.write(tail[tail.find(b"\n") + 1 :])


async def follow(path: Path, keep_following: bool, tail: int | None = None) -> AsyncIterator[bytes]:
    """The file's last `tail` lines (all if None); then, if asked, what is appended until the file is removed."""
    with path.open("rb") as file:
        if tail is not None:
            for line in deque(file, maxlen=tail):
                yield line
        while True:
            if chunk := file.read(_CHUNK_BYTES):
                yield chunk
                continue
            status = os.fstat(file.fileno())
            if not keep_following or not status.st_nlink:
                return
            if status.st_size < file.tell():
                file.seek(0)
                continue
            await asyncio.sleep(_POLL_SECONDS)
