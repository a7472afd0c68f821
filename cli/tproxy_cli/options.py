"""Flags that mean the same in every command, and the base of all commands that take them.

Precedence: flag, then environment (`TPROXY_` and the flag's name), then the configuration file, then the default.
"""

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tproxy_cli import config
from tproxy_cli.ui.console import Console

if TYPE_CHECKING:
    from tproxy_cli.client import Daemon, Json

Function = Callable[..., Any]

FORMATS = ("table", "wide", "json", "yaml", "name")
SPEECH = ("verbose", "progress", "color")
"""Flags on how to speak, which every command has and `tproxy` itself, too."""


class Command(click.Command):
    """A command whose flags take their defaults from the environment and the configuration file."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse `args`. The environment's names have no command in them: one flag has one meaning."""
        extra.setdefault("auto_envvar_prefix", "TPROXY")
        if not extra.get("resilient_parsing"):
            extra.setdefault("default_map", config.load())
        return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; mistakes that click finds before it has the context are given it, so that the hint names us."""
        ctx.meta["arguments"] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


def command(**settings: Any) -> Callable[[Function], Command]:
    """Make a `Command` of a function that takes a `Console` first. `-v`, `--progress`, `--color` are added."""

    def decorate(function: Function) -> Command:
        @functools.wraps(function)
        def call(**params: Any) -> Any:
            return function(console(), **params)

        made: Command = click.command(cls=Command, **settings)(_speech_options(call, only_typed=True))
        made.params.sort(key=lambda param: param.name in SPEECH)  # help shows a command's own flags first
        return made

    return decorate


def console() -> Console:
    """The running command's console."""
    found = click.get_current_context().find_object(Console)
    return found if found is not None else Console()


def daemon(speech: Console) -> "Daemon":
    """The laptop daemon, telling its news to `speech`."""
    from tproxy_cli.client import Daemon

    return Daemon(speech.progress, speech.warn)


def root_options(function: Function) -> Function:
    """`-v`, `--progress` and `--color` of `tproxy` itself, before the command's name."""
    return _speech_options(function, only_typed=False)


def cluster_body(kubeconfig: str | None, context: str | None, namespace: str | None) -> "Json":
    """The part of a request that names the cluster.

    Paths are absolute, and `$KUBECONFIG` or the file in the home directory is spelled out: the daemon has a directory
    and an environment of its own, of the shell that happened to start it.
    """
    listed = kubeconfig or os.environ.get("KUBECONFIG") or ""
    files = [os.path.abspath(os.path.expanduser(name)) for name in listed.split(os.pathsep) if name]
    usual = os.path.expanduser("~/.kube/config")
    if not files and os.path.isfile(usual):
        files = [os.path.abspath(usual)]
    return {"kubeconfig": os.pathsep.join(files) or None, "context": context, "namespace": namespace}


def cluster_options(function: Function) -> Function:
    """Add `-n`, `--context` and `--kubeconfig`; the function gets them as `cluster`, the daemon's form of them."""

    @functools.wraps(function)
    def call(*args: Any, kubeconfig: str | None, context: str | None, namespace: str | None, **params: Any) -> Any:
        return function(*args, cluster=cluster_body(kubeconfig, context, namespace or None), **params)

    decorated = click.option(
        "--kubeconfig", metavar="FILE", shell_complete=_files, help="Kubeconfig file; else $KUBECONFIG, ~/.kube/config."
    )(call)
    decorated = click.option("--context", metavar="NAME", help="Context of the kubeconfig.")(decorated)
    return click.option(
        "-n", "--namespace", metavar="NAME", shell_complete=_namespaces, help="Namespace; else the context's."
    )(decorated)


def sudo_option(function: Function) -> Function:
    """Add `--sudo`."""
    return click.option(
        "--sudo",
        is_flag=True,
        allow_from_autoenv=False,
        help="Have CMD's namespaces made with root's rights, where users may not make any; CMD still runs as you.",
    )(function)


def transport_option(function: Function) -> Function:
    """Add `--transport`, within `cluster_options`: it becomes part of what the daemon is told of the cluster."""

    @functools.wraps(function)
    def call(*args: Any, cluster: "Json", transport: str | None, **params: Any) -> Any:
        return function(*args, cluster={**cluster, "transport": transport} if transport else cluster, **params)

    return click.option(
        "--transport",
        type=click.Choice(("port-forward", "direct")),
        default=config.DEFAULTS["transport"],
        help="How nodes are reached: through the API server, or directly by TLS where an administrator has exposed"
        " that. Holds for the cluster until it is said anew; at first port-forward.",
    )(call)


def proxy_options(function: Function) -> Function:
    """Add `--also-proxy` and `--never-proxy`; the function gets them as `also_proxy` and `never_proxy`."""
    decorated = click.option(
        "--never-proxy",
        multiple=True,
        metavar="CIDR",
        help="A network that never does, such as one of a VPN or at home that the cluster uses too. Repeatable.",
    )(function)
    return click.option(
        "--also-proxy",
        multiple=True,
        metavar="CIDR",
        help="A network that leads into the cluster besides its Services and pods. Repeatable.",
    )(decorated)


def port_option(what: str) -> Callable[[Function], Function]:
    """Add `--port` to what looks at a pod's network: 0 is any. `what` it then shows only."""
    return click.option(
        "--port",
        metavar="N",
        type=click.IntRange(0, 65535),
        default=0,
        allow_from_autoenv=False,
        help=f"Only {what} this port at either end.",
    )


def number_option(
    name: str, most: int, default: int, what: str, *, least: int = 1, metavar: str = "N"
) -> Callable[[Function], Function]:
    """Add a bound of how long or how much, from `least` to `most`."""
    return click.option(
        name,
        metavar=metavar,
        type=click.IntRange(least, most),
        default=default,
        show_default=default != most,
        allow_from_autoenv=False,
        help=what,
    )


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    allow_from_autoenv=False,
    help="Form of the result.",
)


def complete(ctx: click.Context, what: str, prefix: str) -> list[str]:
    """Names for the shell's completion, from the daemon if it runs; none rather than an error or a delay."""
    from tproxy.errors import TproxyError
    from tproxy_cli.client import Daemon

    flags = (ctx.params.get(name) for name in ("kubeconfig", "context", "namespace"))
    body: dict[str, Any] = {"cluster": cluster_body(*flags), "what": what, "prefix": prefix}
    try:
        return [str(item) for item in Daemon().call("/v1/complete", body, seconds=0.2)["items"]]
    except (TproxyError, KeyError):
        return []


def _namespaces(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, "namespaces", incomplete)


def _files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _speech_options(function: Function, only_typed: bool) -> Function:
    """Flags that set the console. A command's own count only if typed, for `tproxy`'s have the other sources."""

    def set_attribute(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
            typed = param.name is not None and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
            speech = ctx.find_object(Console)
            if speech is not None and value is not None and (typed or not only_typed):
                setattr(speech, attribute, value)

        return callback

    decorated = click.option(
        "--color",
        type=click.Choice(("auto", "always", "never")),
        expose_value=False,
        is_eager=True,
        callback=set_attribute("color"),
        help="Colour: auto, always or never.",
        metavar="WHEN",
    )(function)
    decorated = click.option(
        "--progress",
        type=click.Choice(("auto", "plain", "json", "off")),
        expose_value=False,
        is_eager=True,
        callback=set_attribute("progress_mode"),
        help="Progress on stderr: auto, plain, json or off.",
        metavar="HOW",
    )(decorated)
    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        default=None,
        expose_value=False,
        is_eager=True,
        callback=set_attribute("verbose"),
        help="Show what an error came from.",
    )(decorated)
