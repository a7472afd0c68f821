"""Background tasks that are kept alive, named, and whose failures are never silent.

`asyncio.create_task` keeps only a weak reference and swallows exceptions until the garbage collector finds them.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """A set of running tasks that belong together and end together."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine` in the background; a failure is logged under `owner` and `name`."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=f"{self._owner}:{name}")
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background task failed", extra={"task": task.get_name()}, exc_info=error)

    def cancel(self) -> None:
        """Cancel what runs, without waiting for its end."""
        for task in self._running:
            task.cancel()

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        current = asyncio.current_task()
        tasks = [task for task in self._running if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
