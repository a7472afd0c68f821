"""`tproxy run`: run a command as if it ran in the cluster."""

import ipaddress

import click

from tproxy.errors import InvalidError
from tproxy_cli.client import Json
from tproxy_cli.given import GivenToCommand, command_options
from tproxy_cli.options import cluster_options, command, complete, daemon, proxy_options, sudo_option, transport_option
from tproxy_cli.ui.console import Console


def _workloads(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, "workloads", incomplete)


@command(context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, required=True, metavar="-- CMD [ARGUMENT]...", type=click.UNPROCESSED)
@click.option(
    "--as",
    "target",
    metavar="TARGET",
    shell_complete=_workloads,
    allow_from_autoenv=False,
    help="Workload whose pod it is to be: what leaves, leaves from there. Else any running pod of the namespace.",
)
@click.option(
    "--publish",
    multiple=True,
    metavar="[LAPTOP:]PORT",
    allow_from_autoenv=False,
    help="Make a port that CMD listens at reachable on the laptop, at localhost. Repeatable.",
)
@sudo_option
@command_options
@proxy_options
@cluster_options
@transport_option
def run(
    console: Console,
    words: tuple[str, ...],
    target: str | None,
    publish: tuple[str, ...],
    sudo: bool,
    also_proxy: tuple[str, ...],
    never_proxy: tuple[str, ...],
    given: GivenToCommand,
    cluster: Json,
) -> None:
    """Run a command as if it ran in the cluster.

    What CMD and its children send, by any protocol over TCP or UDP, to Services, pods and names of the cluster leaves
    from a pod there; everything else takes the laptop's own network. Needs no root, and changes nothing on the laptop.
    A loopback port that nothing of CMD's listens at is the laptop's. The exit status is that of CMD.

    \b
    Examples:
      tproxy run -- curl http://web/                       by a name of the context's namespace
      tproxy run --as deploy/web -- python app.py          with the network of a pod of web
      tproxy run --as web --env --files -- python app.py   with the variables and files of its container as well
      tproxy run --publish 5678 -- python -m debugpy --listen 5678 --wait-for-client app.py
    """
    from tproxy_cli.run.launch import Wanted, run_command

    if target is not None:
        from tproxy.model.workload import parse_target

        parse_target(target)
    given.check()
    wanted_given = given.body()
    if wanted_given is not None and target is None:
        raise InvalidError(
            "`--env` and `--files` are about a container, and no workload is named",
            "name one: `tproxy run --as TARGET`",
        )
    wanted = Wanted(
        cluster=cluster,
        target=target,
        publish=[_publication(text) for text in publish],
        also=[_network(text) for text in also_proxy],
        never=[_network(text) for text in never_proxy],
        given=wanted_given,
        sudo=sudo,
    )
    raise click.exceptions.Exit(run_command(console, daemon(console), wanted, words))


def _publication(text: str) -> tuple[int, int]:
    laptop, colon, inside = text.rpartition(":")
    numbers = [inside, laptop if colon else inside]
    if not all(number.isascii() and number.isdecimal() and 0 < int(number) < 65536 for number in numbers):
        raise InvalidError(f"{text!r} is no port to publish", "write `--publish PORT` or `--publish LAPTOP:PORT`")
    return int(numbers[1]), int(numbers[0])


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise InvalidError(
            f"{text!r} is no range of addresses: {error}", "write it like 10.1.0.0/16 or fd00:1::/64"
        ) from error
