"""`tproxy leave`: give intercepted traffic back."""

import click

from tproxy.errors import InvalidError
from tproxy.text.units import elapsed
from tproxy_cli.client import Json
from tproxy_cli.options import cluster_options, command, complete, daemon, output_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render

ANSWER_SECONDS = 60.0


def _intercepts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, "intercepts", incomplete)


@command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_intercepts)
@click.option("--all", "everything", is_flag=True, allow_from_autoenv=False, help="Leave all intercepts of yours.")
@click.option(
    "--force",
    is_flag=True,
    allow_from_autoenv=False,
    help="Also intercepts of others, if the cluster lets you delete them. NAME is then an intercept's own.",
)
@cluster_options
@output_option
def leave(console: Console, names: tuple[str, ...], everything: bool, force: bool, cluster: Json, output: str) -> None:
    """Give intercepted traffic back.

    The pods serve new connections at once, and the next request of an open HTTP connection; others may go on for as
    long as `tproxy intercept --drain` said. NAME is that of an intercept or of its workload: web-3f2a, web, deploy/web.
    """
    if everything == bool(names):
        raise InvalidError(
            "say either which intercepts to leave, or --all" if names else "say which intercepts to leave",
            "`tproxy list` shows them; `tproxy leave --all` leaves all",
        )
    if everything and force:
        raise InvalidError("--all leaves what is yours, --force names what is others'", "`tproxy list` shows them")
    body = {"cluster": cluster, "names": list(names), "all": everything, "force": force}
    result = daemon(console).call("/v1/leave", body, start=True, seconds=ANSWER_SECONDS)
    left = result["left"]
    took = elapsed(result["seconds"])
    text = render(
        output,
        result,
        lambda wide: "\n".join(f"intercept/{one['name']} left in {took} ({_what(one)})" for one in left),
        lambda: (f"intercept/{one['name']}" for one in left),
    )
    if text:
        console.out(text)
    if not left:
        console.hint("no intercepts to leave")


def _what(left: Json) -> str:
    """Target, and the owner of one that was not ours."""
    return f"{left['target']}, of {left['user']}" if left.get("user") else str(left["target"])
