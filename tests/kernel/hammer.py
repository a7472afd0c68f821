"""Clients that connect again and again, and remember what became of each try."""

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType

from tests.kernel.answering import PORT, ask
from tests.kernel.namespaces import Namespace, until


@dataclass(frozen=True)
class Result:
    """`began` is monotonic; `who` is the server, `refused`, or `error` with its `detail`."""

    began: float
    who: str
    detail: str = ""


class Hammer:
    """Keeps `workers` clients busy while entered."""

    def __init__(self, place: Namespace, host: str, workers: int) -> None:
        self.results: list[Result] = []
        self._place = place
        self._host = host
        self._workers = workers
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def count(self, who: str) -> int:
        return sum(result.who == who for result in self.results)

    async def more(self, who: str, count: int) -> None:
        """Wait for as many more results of `who`."""
        enough = self.count(who) + count
        await until(lambda: self.count(who) >= enough)

    async def __aenter__(self) -> "Hammer":
        group = range(self._workers)
        self._tasks = [asyncio.get_running_loop().create_task(self._work()) for _ in group]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            try:
                answer = await ask(self._place, self._host, PORT)
                self.results.append(Result(began, answer.who if answer else "refused"))
            except OSError as error:
                self.results.append(Result(began, "error", repr(error)))
