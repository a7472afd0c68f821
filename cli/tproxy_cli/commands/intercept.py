"""`tproxy intercept`: bring a workload's traffic to the laptop."""

import shlex
import time

import click

from tproxy.errors import InvalidError, TproxyError
from tproxy.text.units import elapsed
from tproxy_cli.client import Json
from tproxy_cli.config import DEFAULTS
from tproxy_cli.given import GivenOptions, given_options
from tproxy_cli.http_options import check_http, http_options
from tproxy_cli.options import cluster_options, command, complete, daemon, output_option, sudo_option, transport_option
from tproxy_cli.ui import intercepts
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render

GRACE_SECONDS = 15.0
"""How much longer than the cluster the daemon may take: it undoes what it began."""


def _workloads(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, "workloads", incomplete)


@command()
@click.argument("workload", shell_complete=_workloads)
@click.argument("words", nargs=-1, metavar="[-- CMD [ARGUMENT]...]", type=click.UNPROCESSED)
@click.option(
    "-p",
    "--port",
    "ports",
    multiple=True,
    metavar="LOCAL[:REMOTE][/PROTOCOL]",
    allow_from_autoenv=False,
    help="Laptop port, and the workload's port (number or name) whose connections it gets; with /udp its datagrams."
    " Repeatable.",
)
@http_options
@click.option(
    "--fallback-when-refused",
    is_flag=True,
    allow_from_autoenv=False,
    help="While nothing listens on the laptop's port the pods answer these requests; else they get a 502.",
)
@click.option(
    "--on-disconnect",
    type=click.Choice(("fallback", "fail")),
    default=DEFAULTS["on-disconnect"],
    show_default=True,
    help="If the laptop is gone before it has answered: give what may be repeated to the pods, or fail it. What begins"
    " later is the pods'.",
)
@click.option(
    "--probes",
    type=click.Choice(("app", "laptop")),
    default=DEFAULTS["probes"],
    show_default=True,
    help="Who answers health checks: the pod's app, so that a breakpoint restarts no pod, or the laptop.",
)
@click.option(
    "--existing",
    type=click.Choice(("idle", "keep", "reset")),
    default=DEFAULTS["existing"],
    show_default=True,
    help="Connections the app has already: take HTTP ones over between two requests, keep all there, or reset all.",
)
@click.option(
    "--drain",
    type=click.IntRange(0, 3600),
    default=DEFAULTS["drain"],
    show_default=True,
    metavar="SECONDS",
    help="After `tproxy leave`: how long connections that are with the laptop may go on.",
)
@click.option(
    "--proxy-protocol",
    type=click.Choice(("v1", "v2")),
    default=DEFAULTS["proxy-protocol"],
    help="Send the laptop's app a PROXY protocol header with the real client before each connection's first bytes.",
)
@click.option(
    "--timeout",
    type=click.IntRange(1, 3600),
    default=DEFAULTS["timeout"],
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until every pod is steered.",
)
@given_options
@sudo_option
@cluster_options
@transport_option
@output_option
def intercept(
    console: Console,
    workload: str,
    words: tuple[str, ...],
    ports: tuple[str, ...],
    http: Json,
    fallback_when_refused: bool,
    on_disconnect: str,
    probes: str,
    existing: str,
    drain: int,
    proxy_protocol: str | None,
    timeout: int,
    given: GivenOptions,
    sudo: bool,
    cluster: Json,
    output: str,
) -> None:
    """Bring a workload's traffic to your laptop.

    New connections to the given ports of every pod of WORKLOAD go to your laptop's ports until `tproxy leave`; pods
    that start later are included. WORKLOAD is a name, or a kind and a name: web, deploy/web, svc/web, pod/web-0.

    With --http flags it is personal: only requests that meet all of them go to the laptop, each decided on its own;
    everything else stays with the pods, and others can have their own requests of the same port.

    With a command after -- that command gets the traffic: it runs as by `tproxy run --as WORKLOAD`, LOCAL is a port
    that it listens at, and the intercept is left when it ends. The exit status is that of CMD. With --env and --files
    it has the variables and files of the container, as `tproxy help run` says.

    \b
    Examples:
      tproxy intercept web --port 3000            the workload's only port, or its port 3000
      tproxy intercept web --port 3000:80         its port 80
      tproxy intercept svc/web -p 3000:http       the port that the Service calls http
      tproxy intercept dns -p 5353:53/udp         its port 53 of UDP; a name means what it is declared as
      tproxy intercept web -p 3000 --http-header x-user=ada
      tproxy intercept web -p 3000 --http-header auto --http-path-prefix /api
      tproxy intercept web -p 8080 -- python app.py
    """
    from tproxy.model.workload import parse_ports, parse_target

    parse_target(workload)
    for port in ports:
        parse_ports(port)
    personal = check_http(http)
    if fallback_when_refused and not personal:
        raise InvalidError(
            "--fallback-when-refused is for single requests, and no --http flag says which",
            "without one, connections go to the laptop whole; see `tproxy intercept --help`",
        )
    if sudo and not words:
        raise InvalidError("`--sudo` is for a command, and none is given", "write the command after `--`")
    to_command: Json | None = None
    if words:
        command_given, given = given.to_command()
        command_given.check()
        to_command = command_given.body(ports)
    given.check()
    started = time.monotonic()
    body = {
        "cluster": cluster,
        "target": workload,
        "ports": list(ports),
        "http": http,
        "onRefused": "fallback" if fallback_when_refused else "fail",
        "onDisconnect": on_disconnect,
        "probes": probes,
        "existing": existing,
        "drainSeconds": drain,
        "proxyProtocol": proxy_protocol,
        "timeoutSeconds": timeout,
        **given.body(),
    }
    asked = daemon(console)

    def begin(run: str = "") -> Json:
        try:
            result = asked.call(
                "/v1/intercept", body | ({"run": run} if run else {}), start=True, seconds=timeout + GRACE_SECONDS
            )
        except KeyboardInterrupt as interrupt:
            # The daemon sees the closed connection.
            raise TproxyError("interrupted; what was begun is being undone", exit_code=130) from interrupt
        given.take(result)
        return result

    if words:
        from tproxy_cli.run.launch import Wanted, run_command

        if "--" not in click.get_current_context().meta["arguments"]:
            raise click.UsageError(f"got unexpected extra argument ({' '.join(words)})", click.get_current_context())
        wanted = Wanted(cluster, workload, given=to_command, sudo=sudo)
        status = run_command(
            console, asked, wanted, words, lambda: console.hint(describe(begin(wanted.id), output == "wide"))
        )
        raise click.exceptions.Exit(status)
    result = begin()
    # What the person waited, the daemon's own start included.
    result["seconds"] = round(time.monotonic() - started, 3)
    text = render(output, result, lambda wide: describe(result, wide), lambda: [f"intercept/{result['name']}"])
    console.out(text)
    for warning in result.get("warnings", ()):
        console.warn(warning)
    if output in ("table", "wide"):
        console.hint(f"\nTo give it back: `{leave_command(result, cluster)}`")


def describe(result: Json, wide: bool) -> str:
    """The new intercept in words."""
    verb = "created" if result.get("created", True) else "configured"
    lines = [f"intercept/{result['name']} {verb} in {elapsed(result['seconds'])}"]
    for port in result["ports"]:
        protocol = "" if port.get("protocol", "TCP") == "TCP" else f"/{port['protocol'].lower()}"
        to = f"the command's port {port['local']}" if result.get("run") else f"localhost:{port['local']}"
        lines.append(f"  {result['target']} port {port['remote']}{protocol} -> {to}")
    if conditions := intercepts.conditions(result.get("match")):
        lines.append(f"  only requests with {' and '.join(conditions)}")
    pods = result["pods"]
    shown = pods if wide or len(pods) <= 10 else pods[:9]
    for pod in shown:
        state = "" if pod["state"] == "Ready" else f": {pod['state']}, {pod.get('message') or pod.get('reason')}"
        lines.append(f"  from pod {pod['name']} on {pod['node']}{state}")
        if staying := intercepts.staying(pod):
            lines.append(f"    {staying}")
    if len(shown) < len(pods):
        lines.append(f"  and {len(pods) - len(shown)} more pods")
    lines += [f"  environment of {_source(result)} in {result['envFile']}"] if "envFile" in result else []
    if "files" in result:
        lines.append(f"  {result['files']['count']} files in {result['files']['directory']}")
    if not pods:
        lines.append("  from no pod yet: none is running; pods that start are included")
    if header := result.get("freshHeader") and _fresh_header(result):
        lines += [
            f"  with curl: curl -H {shlex.quote(f'{header[0]}: {header[1]}')} ...",
            f"  in a browser extension that adds request headers: name {header[0]}, value {header[1]}",
        ]
    return "\n".join(lines)


def _fresh_header(result: Json) -> tuple[str, str] | None:
    from tproxy.model.conditions import AUTO_HEADER

    headers = (result["match"] or {}).get("headers", ())
    return next(((each["name"], each["value"]) for each in headers if each["name"] == AUTO_HEADER), None)


def _source(result: Json) -> str:
    return f"container {result['source']['container']} of pod {result['source']['pod']}"


def leave_command(result: Json, cluster: Json) -> str:
    """The command that undoes it, with the flags that the person used to say where."""
    words = ["tproxy leave", result["name"]]
    if cluster["namespace"]:
        words.append(f"-n {cluster['namespace']}")
    if cluster["context"]:
        words.append(f"--context {cluster['context']}")
    return " ".join(words)
