"""Keeps the directories of `--files` as the containers' files are: one task for each intercept that has one.

held with files ──▶ follow a pod ──lost, pod gone──▶ wait ──▶ follow another      no longer held ──▶ remove
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

from tproxy.env.archive import File
from tproxy.errors import TproxyError
from tproxy.kube.port import Cluster
from tproxy.model.pod import Pod
from tproxy.tasks import Tasks
from tproxy_cli.daemon.given.answer import TunnelLostError
from tproxy_cli.daemon.given.directory import FilesDirectory
from tproxy_cli.daemon.given.reader import GivenReader
from tproxy_cli.daemon.given.source import Source, choose
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.tunnels import Backoff

log = logging.getLogger(__name__)

LONGEST_RETRY_SECONDS = 15.0

PodsOf = Callable[[Held], Awaitable[Sequence[Pod]]]
"""The pods of an intercept's target now. Raises TproxyError."""


class FileCopies:
    """The copies of one session's intercepts. What is held and not followed yet is taken up, what is not held removed.

    The daemon's end alone removes nothing: the objects stay, and with them what belongs to them.
    """

    def __init__(self, session: LaptopSession, api: Callable[[], Cluster], pods_of: PodsOf) -> None:
        self._session = session
        self._reader = GivenReader(session, api)
        self._pods_of = pods_of
        self._copies: dict[str, _Copy] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._tasks = Tasks("files")
        self._keeping = self._tasks.start(self._keep(), "keep")

    async def begin(self, held: Held, seconds: float) -> int:
        """Copy the files of a held intercept for the first time; how many there are. Raises TproxyError."""
        copy = self._take_up(held)
        copy.waited_for = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await asyncio.shield(copy.first)
        why = f": {held.files_trouble}" if held.files_trouble else ""
        raise TproxyError(
            f"no files of {held.saved.target} after {seconds:g} s{why}",
            "`tproxy intercept` without `--files` needs none",
        )

    async def settle(self) -> None:
        """Return once everything that is no longer held has been removed."""
        for name in list(self._copies):
            if name not in self._session.held or self._session.ended:
                self._end(self._copies.pop(name))
        if self._ending:
            await asyncio.wait(self._ending)  # which goes on even if nobody waits any more

    async def close(self) -> None:
        """Stop copying. What is no longer held is removed first."""
        self._keeping.cancel()
        await self.settle()
        await self._tasks.close()

    async def _keep(self) -> None:
        while True:
            changed = self._session.changed
            for held in list(self._session.held.values()):
                if held.saved.files and held.saved.uid and not held.leaving:
                    self._take_up(held)
            await self.settle()
            await changed.wait()

    def _take_up(self, held: Held) -> "_Copy":
        copy = self._copies.get(held.name)
        if copy is not None and (copy.directory.path, copy.container) == (Path(held.saved.files), held.saved.container):
            return copy
        if copy is not None:
            self._end(copy)
        copy = self._copies[held.name] = _Copy(held)
        copy.task = self._tasks.start(self._follow(copy), held.name)
        return copy

    def _end(self, copy: "_Copy") -> None:
        task = self._tasks.start(self._finish(copy), f"end {copy.held.name}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _finish(self, copy: "_Copy") -> None:
        if copy.task is not None:
            copy.task.cancel()
            await asyncio.gather(copy.task, return_exceptions=True)
        try:
            await asyncio.to_thread(copy.directory.remove)
        except TproxyError as error:
            log.warning("files stay on disk: %s", error.message)

    async def _follow(self, copy: "_Copy") -> None:
        backoff = Backoff(longest=LONGEST_RETRY_SECONDS)
        while True:
            began = time.monotonic()
            try:
                await self._follow_one(copy, await self._source(copy))
            except TproxyError as error:
                copy.held.files_trouble = error.message
                log.info("files are not followed: %s", error.message, extra={"intercept": copy.held.name})
                if copy.waited_for and not copy.first.done() and not isinstance(error, TunnelLostError):
                    copy.first.set_exception(error)
                    return
            if time.monotonic() - began > LONGEST_RETRY_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _follow_one(self, copy: "_Copy", source: Source) -> None:
        async with aclosing(self._reader.files(source)) as seen:  # type: ignore[type-var]
            async for files in seen:
                await copy.put(files)

    async def _source(self, copy: "_Copy") -> Source:
        ports = {port.pod.port for port in copy.held.saved.ports}
        return choose(await self._pods_of(copy.held), ports, copy.container)


class _Copy:
    """One directory, filled from one container at a time."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.container = held.saved.container
        self.directory = FilesDirectory(Path(held.saved.files))
        self.task: asyncio.Task[None] | None = None
        self.waited_for = False
        self.first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.first.add_done_callback(lambda future: future.cancelled() or future.exception())  # may have no waiter

    async def put(self, files: Sequence[File]) -> None:
        """Write them."""
        await asyncio.to_thread(self._write, files)
        self.held.files_trouble = ""
        if not self.first.done():
            self.first.set_result(len(files))

    def _write(self, files: Sequence[File]) -> None:
        self.directory.prepare()
        self.directory.write(files)
