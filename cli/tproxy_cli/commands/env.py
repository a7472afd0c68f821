"""`tproxy env`: show a container's environment."""

import sys

import click

from tproxy_cli.client import Json
from tproxy_cli.given import container_option, format_option, selection_options
from tproxy_cli.options import cluster_options, command, complete, daemon, transport_option
from tproxy_cli.ui.console import Console

ANSWER_SECONDS = 60.0


def _workloads(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, "workloads", incomplete)


@command(name="env")
@click.argument("workload", shell_complete=_workloads)
@container_option
@format_option
@selection_options
@cluster_options
@transport_option
def env_command(
    console: Console,
    workload: str,
    container: str,
    env_format: str,
    env_include: tuple[str, ...],
    env_exclude: tuple[str, ...],
    cluster: Json,
) -> None:
    """Show the environment of a workload's container.

    It is that of the container's first process in a running pod of WORKLOAD, without what only says where things are
    in the container (PATH, HOME and the like; --env-include brings them back). It may hold secrets.

    \b
    Examples:
      tproxy env web > .env
      eval "$(tproxy env web --env-format sh)"
      tproxy env web -c proxy --env-format json --env-exclude '*_TOKEN'
    """
    from tproxy.model.workload import parse_target

    parse_target(workload)
    form = {"format": env_format, "include": list(env_include), "exclude": list(env_exclude)}
    body = {"cluster": cluster, "target": workload, "container": container or None, "environment": form}
    result = daemon(console).call("/v1/environment", body, start=True, seconds=ANSWER_SECONDS)
    console.clear()
    sys.stdout.buffer.write(result["environment"].encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
