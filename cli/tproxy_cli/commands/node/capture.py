"""`tproxy node capture`: the packets of a pod's network, into a file or straight into Wireshark."""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import click

from tproxy.errors import TproxyError
from tproxy.model.tracing import MAX_PACKETS, MAX_SECONDS, SECONDS, SNAP_LENGTH
from tproxy_cli.client import Json
from tproxy_cli.options import cluster_options, command, daemon, number_option, port_option
from tproxy_cli.ui.console import Console

STDOUT = "-"


@command()
@click.argument("pod", metavar="[NS/]POD")
@port_option("packets with")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="",
    allow_from_autoenv=False,
    help="Where to; - is stdout. Else POD.pcapng in this directory.",
)
@number_option("--snap-length", SNAP_LENGTH, SNAP_LENGTH, "How much of each packet to keep.", least=64, metavar="BYTES")
@number_option("--packets", MAX_PACKETS, MAX_PACKETS, "End after so many.")
@number_option("--seconds", MAX_SECONDS, SECONDS, "How long, unless Ctrl-C ends it before.")
@cluster_options
def capture(
    console: Console,
    pod: str,
    port: int,
    output: str,
    snap_length: int,
    packets: int,
    seconds: int,
    cluster: Json,
) -> None:
    """Capture the packets of POD's network as pcapng, until Ctrl-C or the end of the pod.

    All of the pod's interfaces, its loopback too. What the node could not keep up with is counted, in the file as well.
    Needs the role tproxy-debugger.

    \b
    Examples:
      tproxy node capture shop/web-5d4f7c-x2x9k --port 8080 -o web.pcapng
      tproxy node capture shop/web-5d4f7c-x2x9k -o - | wireshark -k -i -
    """
    from tproxy.trace.pcapng import PACKET, Blocks

    named = pod if "/" in pod else f"{cluster['namespace'] or 'default'}/{pod}"
    path = output or f"{named.rpartition('/')[2]}.pcapng"
    arguments: dict[str, Any] = {
        "pod": named,
        "port": port,
        "snapLength": snap_length,
        "packets": packets,
        "seconds": seconds,
    }
    blocks, seen, counts, begun = Blocks(), 0, dict[int, int](), False
    answer = daemon(console).ask({"cluster": cluster, "node": "", "question": "capture", "arguments": arguments})
    try:
        first = next(answer, b"")
        with _opened(path) as file:
            begun = True
            console.hint(f"capturing packets of pod {named}; Ctrl-C ends it")
            for piece in itertools.chain([first], answer):
                # Only whole blocks are written: a file that ends within one is broken.
                whole = list(blocks.feed(piece)) if isinstance(piece, bytes) else []
                file.write(b"".join(block.data for block in whole))
                file.flush()
                for block in whole:
                    seen += block.kind == PACKET
                    if block.statistics is not None:
                        number, _, dropped = block.statistics
                        counts[number] = dropped
    except KeyboardInterrupt:  # which is how it is meant to end
        if not begun:
            console.hint("nothing was captured")
            return
    except ValueError as error:
        raise TproxyError(
            "the node daemon sent something else than packets", "`tproxy version` compares versions"
        ) from error
    lost = sum(counts.values())
    if lost:
        console.warn(f"{lost} packets were lost: they came faster than they were taken", "`--port` or `--snap-length`")
    console.hint(f"{seen} packets captured" + ("" if path == STDOUT else f" to {path}"))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Where to write. Packets may hold secrets: a file is its owner's alone."""
    if path == STDOUT:
        if sys.stdout.isatty():
            raise TproxyError(
                "packets are not for a terminal", "`-o FILE` writes a file, `| wireshark -k -i -` shows them", 2
            )
        yield sys.stdout.buffer
        return
    import os

    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
    except OSError as error:
        raise TproxyError(f"cannot write {path}: {error.strerror}", "`-o FILE` names another file", 2) from error
    with file:
        yield file
