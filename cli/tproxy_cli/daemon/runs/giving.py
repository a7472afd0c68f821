"""What a run's command is given of its container: variables before it starts, files before it starts and while it runs.

Neither is ever on the laptop's disk unless a person names a directory there: variables go to the command line in
memory, files to the process inside, which keeps them in a file system that only the run sees.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Callable
from typing import cast

from tproxy.errors import ClusterError, TproxyError
from tproxy.tasks import Tasks
from tproxy_cli.daemon.given.running import Files, GivenToRun, GivenWanted
from tproxy_cli.daemon.runs.inside import Inside
from tproxy_cli.run.packets import Json

log = logging.getLogger(__name__)

READ_SECONDS = 20.0


class Giving:
    """For one run, until `close`. `warn` is told message and hint for the person at the command line."""

    def __init__(self, given: GivenToRun, wanted: GivenWanted, warn: Callable[[str, str], None]) -> None:
        self._given = given
        self._wanted = wanted
        self._warn = warn
        self._files: AsyncGenerator[Files] | None = None
        self._first: Files | None = None
        self._tasks = Tasks("giving")

    async def read(self) -> list[int]:
        """Read what is wanted for the first time. Variables come in a descriptor, which is the caller's. Raises
        TproxyError."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                if self._wanted.files:
                    self._files = cast("AsyncGenerator[Files]", self._given.files())
                    self._first = await anext(self._files)
                return [_in_memory(await self._given.environment())] if self._wanted.environment else []
        except TimeoutError as error:
            raise ClusterError(
                f"what the container was given could not be read within {READ_SECONDS:g} s",
                "`tproxy doctor` checks the cluster side",
            ) from error

    async def show(self, inside: Inside) -> Json | None:
        """Show files to the command, and keep them as the container's are; what there is to be known of them. Raises
        TproxyError."""
        if self._first is None:
            return None
        answer = await inside.put(self._first, self._wanted.directory)
        for path, why in answer["left"]:
            self._warn(f"{path} is not the container's: {why}", f"its files are below {answer['directory']}{path}")
        self._first = None
        self._tasks.start(self._follow(inside), "files")
        return {"directory": answer["directory"]}

    async def close(self) -> None:
        """Stop. Idempotent."""
        await self._tasks.close()
        if self._files is not None:
            await self._files.aclose()
        await self._given.close()

    async def _follow(self, inside: Inside) -> None:
        if self._files is None:
            return
        async for files in self._files:
            try:
                await inside.put(files, self._wanted.directory)
            except TproxyError as error:
                log.warning("files of a run are not as the container's: %s", error.message)


def _in_memory(variables: dict[str, str]) -> int:
    descriptor = os.memfd_create("tproxy-environment", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(json.dumps(variables).encode())
    return descriptor
