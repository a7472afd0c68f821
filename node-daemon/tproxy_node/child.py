"""Processes of the node daemon's own that do for it what it must not do itself, for as long as somebody wants it.

A child is a module run by the same Python. It is told what to do by messages on its standard input, a sequence-packet
socket, which may carry descriptors; what it writes is read from its standard output, no faster than the reader wants.
It ends when that socket is closed, and is killed when the daemon dies or the child does not end by itself.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

from tproxy.tasks import Tasks

END_SECONDS = 2.0
LONGEST_LINE = 256 * 1024
_LOOK_SECONDS = 0.02
_COMPLAINTS = 16 * 1024


class Child:
    """One of them. To be started and closed on the daemon's main thread: the kernel watches the thread that forks."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.process = process
        self._control = control
        self._output = asyncio.StreamReader(limit=LONGEST_LINE)
        self._complaints = asyncio.StreamReader()
        self._transports: list[asyncio.BaseTransport] = []
        self._tasks = Tasks("child")
        self._said = b""
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, module: str) -> Self:
        """Run `python -m module`. Raises OSError."""
        child = cls(*_spawn(module))
        try:
            await child._connect()
        except BaseException:
            await child.close()
            raise
        return child

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for pipe, reader in ((self.process.stdout, self._output), (self.process.stderr, self._complaints)):
            transport, _ = await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader), pipe)
            self._transports.append(transport)
        self._listening = self._tasks.start(self._listen(), "complaints")

    def tell(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send it a message, and copies of some descriptors. Raises OSError: it is gone, or does not listen."""
        socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)

    async def line(self) -> bytes:
        """The next line that it writes; empty if it has ended. Raises ValueError if it writes no lines."""
        return await self._output.readline()

    async def some(self, most: int) -> bytes:
        """Some of the bytes that it writes; empty if it has ended."""
        return await self._output.read(most)

    async def close(self) -> str:
        """Have it end, and wait for that; the last that it complained of. Idempotent."""
        self._control.close()
        for transport in self._transports[:1]:
            transport.close()  # whatever it still writes nobody reads
        try:
            await _until(self.process, END_SECONDS)
        finally:
            # It is dying: this takes as long as the kernel needs to take it apart.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, _reap, self.process))
            if self._listening is not None:
                await asyncio.wait([self._listening], timeout=END_SECONDS)  # there is no more to come
            await self._tasks.close()
            for transport in self._transports:
                transport.close()
        return self._said.decode(errors="replace").strip()

    async def _listen(self) -> None:
        while some := await self._complaints.read(_COMPLAINTS):
            self._said = (self._said + some)[-_COMPLAINTS:]


def _spawn(module: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            ours.setblocking(False)
            # Nothing is to be done between fork and exec, so that the kernel need not copy this process' page tables.
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


async def _until(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - no event tells, on old kernels
        await asyncio.sleep(_LOOK_SECONDS)


def _reap(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
