"""`tproxy lab`: run a small cluster on this machine."""

import sys
import time
from typing import Any

import click

from tproxy.errors import ClusterError, InvalidError, TproxyError
from tproxy.lab.layout import DEFAULT_NAME, Layout
from tproxy.text.table import render as render_table
from tproxy.text.units import elapsed
from tproxy_cli.options import Function, command
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render

Json = dict[str, Any]

NOT_UP = 3
_DONE = {"start": "started", "stop": "stopped", "forget": "has forgotten what was before"}


@click.group()
def lab() -> None:
    """Run a small cluster on this machine.

    Two nodes, pods, a laptop and an outside user are network namespaces, joined by virtual links; an embedded API
    server speaks to kubectl. Images are ignored: containers run as processes of this machine. Needs root.
    """


def _name_option(function: Function) -> Function:
    return click.option(
        "--name",
        "layout",
        default=DEFAULT_NAME,
        show_default=True,
        envvar="TPROXY_LAB",
        allow_from_autoenv=False,
        callback=lambda ctx, param, value: Layout(value),
        metavar="LAB",
        help="Which lab; several can be up at once.",
    )(function)


@command()
@click.option("--nodes", default=2, show_default=True, allow_from_autoenv=False, help="How many nodes.")
@click.option("--without-daemons", is_flag=True, allow_from_autoenv=False, help="Start no node daemons.")
@click.option(
    "--daemon-flag",
    "daemon_flags",
    multiple=True,
    metavar="FLAG",
    allow_from_autoenv=False,
    help="Flag of the node daemons, such as --steering=tproxy. Repeatable.",
)
@click.option(
    "--direct",
    is_flag=True,
    allow_from_autoenv=False,
    help="Expose the node daemons to the laptop, for `--transport direct`.",
)
@_name_option
def up(
    console: Console, layout: Layout, nodes: int, without_daemons: bool, daemon_flags: tuple[str, ...], direct: bool
) -> None:
    """Bring the lab up; returns when everything in it is ready."""
    from tproxy.lab import daemons, launch, machine

    machine.require_root("up")
    started = time.monotonic()
    flags = daemons.exposed(daemon_flags) if direct else daemon_flags
    launch.up(layout, nodes, None if without_daemons else flags, console.progress)
    console.out(f"lab/{layout.name} up in {elapsed(time.monotonic() - started)}")
    console.hint(f"next: `tproxy lab apply{layout.option} -f FILE`, `tproxy lab exec{layout.option} laptop -- bash`")


@command()
@_name_option
def down(console: Console, layout: Layout) -> None:
    """Remove the lab and everything that runs in it, also after a crash."""
    from tproxy.lab import launch, machine

    machine.require_root("down")
    started = time.monotonic()
    if launch.down(layout):
        console.out(f"lab/{layout.name} down in {elapsed(time.monotonic() - started)}")
    else:
        console.hint(f"the lab {layout.name!r} is not up")


@command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    allow_from_autoenv=False,
    help="Form of the result.",
)
@_name_option
def status(console: Console, layout: Layout, output: str) -> None:
    """Show the lab: places, nodes, pods, Services. Exits with 3 if it is not up."""
    from tproxy.lab import machine, records

    machine.require_root("status")
    facts = records.facts(layout)
    console.out(render(output, facts, lambda wide: _tables(facts)))
    if facts["state"] == "crashed":
        console.warn(
            f"the lab server has died; its log is {layout.server_log}",
            f"`tproxy lab down{layout.option}`, then `tproxy lab up{layout.option}`",
        )
    elif facts["state"] == "down":
        console.hint(f"start it with `tproxy lab up{layout.option}`")
    if facts["state"] != "up":
        raise click.exceptions.Exit(NOT_UP)


def _tables(facts: Json) -> str:
    stopped = facts.get("apiServer", {}).get("state") == "stopped"
    parts = [f"lab/{facts['name']} is {facts['state']}" + (", its API server is stopped" if stopped else "")]
    if "nodes" not in facts:
        return parts[0]
    places = [(name, ",".join(facts[name]["addresses"]), facts[name]["netns"]) for name in ("laptop", "user")]
    places += [
        (f"node/{node['name'].removeprefix('node')}", ",".join(node["addresses"]), node["netns"])
        for node in facts["nodes"]
    ]
    parts.append(render_table(("PLACE", "ADDRESSES", "NETNS"), places))
    pods = [
        (
            f"pod/{pod['namespace']}/{pod['name']}",
            "yes" if pod["ready"] else "no",
            pod["restarts"],
            pod["node"],
            ",".join(pod["addresses"]),
            ",".join(str(one["pid"]) for one in pod["containers"] if one["pid"]),
        )
        for pod in facts["pods"]
    ]
    if pods:
        parts.append(render_table(("POD", "READY", "RESTARTS", "NODE", "ADDRESSES", "PIDS"), pods))
    services = [
        (
            one["namespace"],
            one["name"],
            ",".join(one["clusterIPs"]),
            ",".join(f"{port['port']}/{port['protocol']}" for port in one["ports"]),
            len(one["endpoints"]),
        )
        for one in facts["services"]
    ]
    parts.append(render_table(("NAMESPACE", "SERVICE", "CLUSTER-IPS", "PORTS", "ENDPOINTS"), services))
    return "\n\n".join(parts)


def _files_option(function: Function) -> Function:
    return click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        required=True,
        allow_from_autoenv=False,
        metavar="FILE",
        help="Manifest, directory of manifests, or - for stdin; repeatable.",
    )(function)


def _namespace_option(function: Function) -> Function:
    return click.option(
        "-n", "--namespace", default="default", show_default=True, metavar="NAME", help="For objects that name none."
    )(function)


def _wait_options(function: Function) -> Function:
    function = click.option(
        "--timeout", default=60.0, show_default=True, metavar="SECONDS", help="How long --wait may take."
    )(function)
    return click.option("--wait", is_flag=True, allow_from_autoenv=False, help="Return when it has taken effect.")(
        function
    )


@command()
@_files_option
@_namespace_option
@_wait_options
@_name_option
def apply(console: Console, layout: Layout, files: tuple[str, ...], namespace: str, wait: bool, timeout: float) -> None:
    """Create or change objects as manifests say."""
    from tproxy.lab import machine, manifests
    from tproxy.lab.client import Client

    machine.require_root("apply")
    client = Client(layout)
    wanted = manifests.resolve(client, manifests.read_files(files, sys.stdin.read), namespace)
    for one, what in manifests.apply(client, wanted):
        console.out(f"{one.title} {what}")
    if wait:
        console.progress("waiting for pods to be ready")
        manifests.wait_ready(client, layout, wanted, timeout)


@command()
@_files_option
@_namespace_option
@_wait_options
@_name_option
def delete(
    console: Console, layout: Layout, files: tuple[str, ...], namespace: str, wait: bool, timeout: float
) -> None:
    """Delete the objects that manifests name."""
    from tproxy.lab import machine, manifests
    from tproxy.lab.client import Client

    machine.require_root("delete")
    client = Client(layout)
    named = manifests.resolve(client, manifests.read_files(files, sys.stdin.read), namespace)
    for one, what in manifests.delete(client, named):
        console.out(f"{one.title} {what}")
    if wait:
        console.progress("waiting for pods to end")
        manifests.wait_gone(client, named, timeout)


@command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@click.option("-c", "--container", default="", allow_from_autoenv=False, help="Of a pod; else its first one.")
@_name_option
@click.argument("place")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD...")
def exec_(console: Console, layout: Layout, container: str, place: str, argv: tuple[str, ...]) -> None:
    """Run a command in a place of the lab.

    PLACE is laptop, laptop/eve (another developer there), user, node/N or pod/NAMESPACE/NAME; instead of a pod's name,
    the name of a Deployment that has one pod will do. Write `--` before the command.
    """
    from tproxy.lab import exec as entering
    from tproxy.lab import machine

    machine.require_root("exec")
    facts = _running(layout)
    command_line = argv[1:] if argv[0] == "--" else argv
    if not command_line:
        raise InvalidError("say which command to run", f"`tproxy lab exec{layout.option} {place} -- bash`")
    console.clear()
    entering.become(entering.find(layout, facts, place, container), command_line)


@command()
@click.argument("pod")
@click.option("-f", "--follow", is_flag=True, allow_from_autoenv=False, help="Go on until the pod is gone.")
@click.option("-c", "--container", default="", allow_from_autoenv=False, help="Else the pod's first one.")
@click.option("--tail", type=int, default=None, allow_from_autoenv=False, help="Only the last lines, this many.")
@_namespace_option
@_name_option
def logs(
    console: Console, layout: Layout, pod: str, follow: bool, container: str, tail: int | None, namespace: str
) -> None:
    """Print what a pod's container has written.

    POD is NAME, NAMESPACE/NAME or pod/NAMESPACE/NAME.
    """
    from tproxy.lab import exec as entering
    from tproxy.lab import machine
    from tproxy.lab.client import Client

    machine.require_root("logs")
    facts = _running(layout)
    parts = pod.removeprefix("pod/").split("/")
    found = entering.find_pod(facts, parts[0] if len(parts) > 1 else namespace, parts[-1])
    query = {"container": container, "follow": "true" if follow else "", "tailLines": "" if tail is None else str(tail)}
    console.clear()
    for chunk in Client(layout).logs(found["namespace"], found["name"], query):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


@command(name="api-server")
@click.argument("action", type=click.Choice(("start", "stop", "forget")))
@_name_option
def api_server(console: Console, layout: Layout, action: str) -> None:
    """Stop the API server as if it were killed, start it, or have it forget.

    Pods, names and Services go on without it, and so do `lab` commands. What it knew it knows again; after `forget`
    watches that go on from earlier hear that their resource version is too old, as after a compaction of etcd.
    """
    from tproxy.lab import machine
    from tproxy.lab.client import Client

    machine.require_root("api-server")
    _running(layout)
    Client(layout).tell_api_server(action)
    console.out(f"api-server {_DONE[action]}")


@command()
@_name_option
def kubeconfig(console: Console, layout: Layout) -> None:
    """Print the laptop's kubeconfig. Its API server is reachable from within the lab."""
    from tproxy.lab import machine

    machine.require_root("kubeconfig")
    try:
        console.out(layout.laptop_kubeconfig.read_text())
    except FileNotFoundError as error:
        raise _not_up(layout) from error


def _running(layout: Layout) -> Json:
    from tproxy.lab import records

    facts = records.facts(layout)
    if "pods" not in facts:
        raise _not_up(layout)
    return facts


def _not_up(layout: Layout) -> TproxyError:
    return ClusterError(f"the lab {layout.name!r} is not up", f"`tproxy lab up{layout.option}`")


for _command in (up, down, status, apply, delete, logs, api_server, kubeconfig):
    lab.add_command(_command)
lab.add_command(exec_, "exec")
