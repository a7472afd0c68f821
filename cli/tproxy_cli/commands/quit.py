"""`tproxy quit`: leave everything and stop the daemon."""

from tproxy_cli.client import NotRunningError
from tproxy_cli.options import command, daemon
from tproxy_cli.ui.console import Console

ANSWER_SECONDS = 30.0


@command(name="quit")
def quit_command(console: Console) -> None:
    """Leave everything and stop the daemon.

    The pods serve again at once; connections to the laptop are closed. Without a daemon there is nothing to do.
    """
    asked = daemon(console)
    try:
        asked.version()  # tells sooner if it hangs
        console.progress("leaving everything")
        left = asked.call("/v1/quit", seconds=ANSWER_SECONDS)["left"]
    except NotRunningError:
        console.out("the tproxy daemon is not running")
        return
    asked.wait_stopped()
    after = f", after leaving {left} intercept{'' if left == 1 else 's'}" if left else ""
    console.out(f"the tproxy daemon has stopped{after}")
