"""`tproxy disconnect`: undo `tproxy connect`."""

import sys

from tproxy.text.units import elapsed
from tproxy_cli.client import Json, NotRunningError
from tproxy_cli.options import command, daemon, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render

UNDO_SECONDS = 30.0


@command()
@output_option
def disconnect(console: Console, output: str) -> None:
    """Undo `tproxy connect`.

    Rules, routes and DNS are as before. Intercepts stay. What is left of a connection all of whose processes were
    killed is removed as well; for that sudo may ask.
    """
    result: Json
    try:
        result = daemon(console).call("/v1/disconnect", seconds=UNDO_SECONDS)
    except NotRunningError:
        result = {"was": False, "seconds": 0.0}
    result["removed"] = _remove_left(console)
    what = f'namespace "{result["namespace"]}"' if result["was"] else ""
    text = render(
        output,
        result,
        lambda wide: f"disconnected from {what} in {elapsed(result['seconds'])}" if what else "",
        lambda: [f"connection/{result['namespace']}"] if what else [],
    )
    if text:
        console.out(text)
    if result["removed"]:
        console.hint("removed what was left of a connection whose processes had been killed")
    elif not what:
        console.hint("there is no connection to undo")


def _remove_left(console: Console) -> bool:
    """Whether there was anything to remove. Raises TproxyError if it could not be."""
    if not sys.platform.startswith("linux"):
        return False
    from tproxy_cli.connect import start

    there = start.is_left()
    if there:
        console.clear()
        start.remove_left()
    return there
