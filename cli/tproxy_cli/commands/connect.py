"""`tproxy connect`: the cluster's addresses and names in every program of the laptop."""

import socket
import sys
import time

from tproxy.errors import ClusterError, ConflictError, TproxyError
from tproxy.text.units import elapsed
from tproxy_cli.client import Daemon, Json
from tproxy_cli.options import cluster_options, command, daemon, output_option, proxy_options, transport_option
from tproxy_cli.ui.console import Console
from tproxy_cli.ui.output import render

OPEN_SECONDS = 60.0
SERVE_SECONDS = 30.0
UNDO_SECONDS = 20.0


@command()
@proxy_options
@cluster_options
@transport_option
@output_option
def connect(
    console: Console, also_proxy: tuple[str, ...], never_proxy: tuple[str, ...], cluster: Json, output: str
) -> None:
    """Reach the cluster from every program on this laptop.

    Services, pods and names work as they do in a pod. Asks for root by sudo, for a helper that catches what is sent to
    addresses in use in the cluster, and DNS. `tproxy disconnect` undoes all of it, and so does the end of the daemon or
    of the helper, whatever kind of end. `tproxy run` needs no root and keeps to one command.

    \b
    Examples:
      tproxy connect                                  short names are those of the kubeconfig's namespace
      tproxy connect -n shop --never-proxy 10.96.8.0/24
      tproxy connect --also-proxy 10.20.0.0/16        a network that only the cluster reaches
    """
    _check_system()
    for text in (*also_proxy, *never_proxy):
        _check_network(text)
    started = time.monotonic()
    asked = daemon(console)
    body = {"cluster": cluster, "alsoProxy": list(also_proxy), "neverProxy": list(never_proxy)}
    result = asked.call("/v1/connect", body, start=True, seconds=OPEN_SECONDS)
    if not result["already"]:
        try:
            _start_helper(console, result["socket"])
            result = asked.call("/v1/connected", seconds=SERVE_SECONDS)
        except BaseException as error:
            _undo(asked)
            if isinstance(error, KeyboardInterrupt):
                raise TproxyError("interrupted; nothing is left", exit_code=130) from error
            raise
        result["already"] = False
    result["seconds"] = round(time.monotonic() - started, 3)
    text = render(output, result, lambda wide: describe(result), lambda: [f"connection/{result['namespace']}"])
    console.out(text)
    for conflict in result["conflicts"]:
        console.warn(f"{conflict['message']}; {conflict['remedy']}")
    if output in ("table", "wide"):
        console.hint("\nTo undo it: `tproxy disconnect`")


def describe(result: Json) -> str:
    """The connection in words."""
    verb = "already connected" if result["already"] else f"connected in {elapsed(result['seconds'])}"
    namespace, context = result["namespace"], result["context"]
    lines = [f'{verb} to namespace "{namespace}"' + (f" of context {context}" if context else "")]
    lines.append(
        f"  {result['addresses']} addresses of Services and pods lead into the cluster, from pod {result['origin']}"
    )
    lines += [f"  {one} as well" for one in result["alsoProxy"]]
    lines += [f"  {one} stays as it is" for one in result["neverProxy"]]
    if result["resolvers"]:
        lines.append("  names of Services are answered by the cluster, all others as before")
    return "\n".join(lines)


def _check_system() -> None:
    if not sys.platform.startswith("linux"):
        raise TproxyError(
            "connecting the whole machine works on Linux only", "see `tproxy help run`, in a Linux container"
        )


def _check_network(text: str) -> None:
    import ipaddress

    from tproxy.errors import InvalidError

    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidError(
            f'"{text[:100]}" is no network: {error}', "write it as 10.96.0.0/16, 10.96.0.7 or fd96::/112"
        ) from error


def _start_helper(console: Console, path: str) -> None:
    """Start the root helper with a socket to the daemon as its stdin, and wait until it has installed everything."""
    from tproxy_cli.connect import codes
    from tproxy_cli.connect.start import start

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as meeting:
        meeting.connect(path)
        console.clear()
        status = start(meeting)
    if status == codes.IN_USE:
        raise ConflictError(
            "this machine is connected host-wide already, by another daemon",
            "`tproxy disconnect` as the user who connected; `tproxy run` works beside it",
        )
    if status == codes.NO_IPTABLES:
        raise ClusterError("the root helper cannot write iptables rules", "use `tproxy run`, or install iptables")
    if status:
        raise TproxyError("the root helper could not install what it needs", "it says why above")


def _undo(asked: Daemon) -> None:
    from contextlib import suppress

    with suppress(TproxyError):
        asked.call("/v1/disconnect", seconds=UNDO_SECONDS)
