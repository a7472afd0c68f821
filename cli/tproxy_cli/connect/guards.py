"""The processes that undo a host-wide connection should the one that works be killed.

There are two, and for one that has gone the one that works starts another. So whichever two are killed, in whatever
order and however quickly, nothing is left. They never undo at the same time: the younger waits for the older.
"""

import os
import select
import signal
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

COUNT = 2

_OLDER_SECONDS = 15.0
"""How long the older may take, which somebody may have stopped; longer than it tries."""

_STANDARD = (0, 1, 2)


class Guards:
    """Started and watched by the process that works, as whose child each of them begins. Raises OSError.

    A guard holds on to `keep` and lets go of every other descriptor: whoever waits for the end of something waits for
    that of the one that works.
    """

    def __init__(self, undo: Callable[[], object], keep: Sequence[int]) -> None:
        self._undo = undo
        self._keep = tuple(keep)
        self._alive, self._held = os.pipe()  # only the one that works has the second
        self._pids: dict[int, int] = {}  # by a pipe that closes with the guard, oldest first
        self._complete()

    @property
    def descriptors(self) -> Collection[int]:
        """Each is readable when its guard has gone."""
        return self._pids.keys()

    def replace(self, gone: Collection[int]) -> None:
        """Start others for those whose descriptors are `gone`."""
        for end in gone:
            pid = self._pids.pop(end)
            os.close(end)
            os.waitpid(pid, 0)
        self._complete()

    def dismiss(self) -> None:
        """Let them go without undoing anything, for it has been done."""
        os.write(self._held, bytes(len(self._pids)))

    def _complete(self) -> None:
        while len(self._pids) < COUNT:
            end, theirs = os.pipe()
            if pid := os.fork():
                os.close(theirs)
                self._pids[end] = pid
            else:
                self._guard(theirs)

    def _guard(self, ours: int) -> NoReturn:
        """The guard itself, which others know by `ours`; it never goes back to what it was forked from."""
        try:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _close_but({*_STANDARD, self._alive, ours, *self._pids, *self._keep})
            detach()
            if not os.read(self._alive, 1):
                for older in self._pids:
                    select.select([older], [], [], _OLDER_SECONDS)
                self._undo()
        finally:
            os._exit(0)


def detach() -> None:
    """Whoever waits for the end of our output need not."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _close_but(kept: Collection[int]) -> None:
    following = 0
    for descriptor in sorted(kept):
        if following < descriptor:  # Python takes an empty range for all there are
            os.closerange(following, descriptor)
        following = descriptor + 1
    os.closerange(following, os.sysconf("SC_OPEN_MAX"))
