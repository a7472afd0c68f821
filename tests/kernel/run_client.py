"""The command line's half of a run.

`python -m tests.kernel.run_client [LAPTOP:PORT]... [given DIRECTORY] [sudo] -- CMD`
"""

import os
import sys

from tproxy_cli.client import Daemon
from tproxy_cli.given import GivenToCommand
from tproxy_cli.run.launch import Launch, Wanted
from tproxy_cli.ui.console import Console

from tproxy.errors import TproxyError


def main() -> int:
    split = sys.argv.index("--")
    options, words = sys.argv[1:split], sys.argv[split + 1 :]
    publish = [(int(one.partition(":")[0]), int(one.partition(":")[2])) for one in options if ":" in one]
    given = GivenToCommand("", True, (), (), options[options.index("given") + 1]).body() if "given" in options else None
    launch = None
    try:
        launch = Launch(Console(), Daemon(), Wanted({}, "web", publish, given=given, sudo="sudo" in options))
        return launch.run(words, os.environ)
    except TproxyError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    finally:
        if launch is not None:
            launch.close()


if __name__ == "__main__":
    sys.exit(main())
