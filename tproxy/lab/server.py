"""The lab server: the one process that is the lab's control plane. `tproxy lab up` starts it in the background.

It says how it gets on by JSON lines on a descriptor that `up` reads: {"progress"}, then {"ready"} or {"error", "hint"}.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys

import uvloop

from tproxy.errors import TproxyError
from tproxy.lab.layout import Layout
from tproxy.lab.stage import Stage

log = logging.getLogger(__name__)


class Announcer:
    """Writes the lines; silent once nobody reads them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, **line: object) -> None:
        """Write one line."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Tell the reader that nothing more comes."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


async def serve(stage: Stage, announcer: Announcer) -> int:
    """Start the stage and stay. Returns an exit code if that fails."""
    try:
        await stage.start(lambda text: announcer.say(progress=text))
    except (TproxyError, OSError) as error:
        log.exception("the lab cannot be started")
        announcer.say(error=str(error), hint=error.hint if isinstance(error, TproxyError) else "")
        return 1
    announcer.say(ready=True)
    announcer.close()
    log.info("the lab is up")
    await asyncio.Event().wait()
    return 0


def main() -> int:
    """Run a lab server; returns its exit code."""
    parser = argparse.ArgumentParser(prog="tproxy.lab.server", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--without-daemons", action="store_true")
    parser.add_argument("--daemon-flag", action="append", default=[], help="for the node daemons")
    parser.add_argument("--announce", type=int, required=True, help="descriptor to report to")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.set_inheritable(options.announce, False)
    announcer = Announcer(options.announce)
    try:
        stage = Stage(Layout(options.name), options.nodes, None if options.without_daemons else options.daemon_flag)
    except TproxyError as error:
        announcer.say(error=error.message, hint=error.hint)
        return 1
    return uvloop.run(serve(stage, announcer))


if __name__ == "__main__":
    sys.exit(main())
