"""`python -m tproxy_node debug`: ask the daemon of this node, on the node, without the API server.

python -m tproxy_node debug status
python -m tproxy_node debug flows --pod shop/web-1 --follow
python -m tproxy_node debug why shop/web-1:8080 --header x-user=ada
python -m tproxy_node debug trace --pod shop/web-1 --port 8080
python -m tproxy_node debug capture shop/web-1 > web.pcapng
python -m tproxy_node debug status --offline     the daemon is dead or hangs: what the kernel holds
"""

import argparse
import contextlib
import json
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tproxy.debug import show_flows, show_offline, show_status, show_trace, show_why
from tproxy.debug.answer import AnswerReader
from tproxy.errors import ClusterError, InvalidError, TproxyError
from tproxy.model.tracing import EVENTS, MAX_PACKETS, RATE, SNAP_LENGTH
from tproxy.model.tracing import SECONDS as SECONDS_OF_TRACES
from tproxy.trace.pcapng import Blocks
from tproxy_node.debug import offline
from tproxy_node.debug.door import DEFAULT

SECONDS = 5.0
"""How long the daemon may be silent before it has begun to answer."""

CHUNK = 64 * 1024

Json = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """The entry point; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        _run(chosen)
    except TproxyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tproxy_node debug", description="Asks the node daemon here, without the API server."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--socket", type=Path, default=DEFAULT, help="the daemon's (default: %(default)s)")
    shared.add_argument("-o", "--output", choices=("table", "wide", "json"), default="table")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", parents=[shared], help="what is steered here, by whom, and how that is")
    status.add_argument(
        "--offline", action="store_true", help="ask the kernel alone, when the daemon is dead or does not answer"
    )
    status.add_argument("--proc", type=Path, default=Path("/proc"), help="where the host's /proc is, for --offline")
    flows = commands.add_parser("flows", parents=[shared], help="connections, and what became of them")
    flows.add_argument("--pod", default="", metavar="NS/POD")
    flows.add_argument("--intercept", default="", metavar="NS/NAME")
    flows.add_argument("--recent", type=int, default=200, metavar="N")
    flows.add_argument("-f", "--follow", action="store_true")
    why = commands.add_parser("why", parents=[shared], help="why a connection goes where it goes")
    why.add_argument("pod", metavar="NS/POD:PORT")
    why.add_argument("--from", dest="source", default="", metavar="ADDRESS")
    why.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    why.add_argument("--method", default="")
    why.add_argument("--path", default="")
    why.add_argument("--no-try", action="store_true", help="leave the local app alone")
    trace = commands.add_parser("trace", parents=[shared], help="what the kernel does with pods' sockets and packets")
    trace.add_argument("--pod", default="", metavar="NS/POD")
    trace.add_argument("--port", type=int, default=0, metavar="N")
    trace.add_argument("--events", default=",".join(EVENTS), metavar="NAME,…")
    trace.add_argument("--rate", type=int, default=RATE, metavar="N")
    trace.add_argument("--seconds", type=int, default=SECONDS_OF_TRACES, metavar="N")
    capture = commands.add_parser("capture", parents=[shared], help="a pod's packets as pcapng, to stdout")
    capture.add_argument("pod", metavar="NS/POD")
    capture.add_argument("--port", type=int, default=0, metavar="N")
    capture.add_argument("--snap-length", type=int, default=SNAP_LENGTH, metavar="BYTES")
    capture.add_argument("--packets", type=int, default=MAX_PACKETS, metavar="N")
    capture.add_argument("--seconds", type=int, default=SECONDS_OF_TRACES, metavar="N")
    ask = commands.add_parser("ask", parents=[shared], help="any question, its answer as it is")
    ask.add_argument("question")
    ask.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help="a VALUE that is JSON is taken as such")
    return parser


def _run(chosen: argparse.Namespace) -> None:
    found: list[Json]
    if chosen.command == "status" and chosen.offline:
        try:
            found = list(offline.answer(chosen.proc, chosen.socket))
        except OSError as error:
            raise ClusterError(f"the kernel does not tell: {error.strerror or error}", "this takes root") from error
        _show(chosen, found, show_offline.text(found, list(offline.states(found))))
    elif chosen.command == "status":
        found = list(_lines(chosen, "status", {}))
        _show(chosen, found, show_status.text(found, chosen.output == "wide"))
    elif chosen.command == "flows":
        _flows(chosen)
    elif chosen.command == "why":
        found = list(_lines(chosen, "why", _about(chosen)))
        remedy = show_why.verdict(found).get("remedy")
        _show(chosen, found, show_why.text(found) + (f"\nhint: {remedy}" if remedy else ""))
    elif chosen.command == "trace":
        _trace(chosen)
    elif chosen.command == "capture":
        arguments = {name: getattr(chosen, name) for name in ("pod", "port", "packets", "seconds")}
        blocks = Blocks()  # only whole ones are passed on: a file that ends within one is broken
        pieces = _ask(chosen.socket, "capture", arguments | {"snapLength": chosen.snap_length})
        with contextlib.suppress(KeyboardInterrupt):
            _pass_on(one.data for piece in pieces if isinstance(piece, bytes) for one in blocks.feed(piece))
    else:
        _pass_on(_ask(chosen.socket, chosen.question, _pairs(chosen.arguments)))


def _pass_on(pieces: Iterable[Json | bytes]) -> None:
    out = sys.stdout.buffer
    for piece in pieces:
        out.write(piece if isinstance(piece, bytes) else json.dumps(piece, ensure_ascii=False).encode() + b"\n")
        out.flush()


def _trace(chosen: argparse.Namespace) -> None:
    arguments = {name: getattr(chosen, name) for name in ("pod", "port", "rate", "seconds")}
    shown = show_trace.TraceText(chosen.output)
    try:
        for one in _lines(chosen, "trace", arguments | {"events": chosen.events.split(",")}):
            for line in shown.feed(one):
                print(line, flush=True)
    except KeyboardInterrupt:
        pass  # which is how it is meant to end
    finally:
        for line in shown.end():
            print(line, flush=True)


def _show(chosen: argparse.Namespace, found: Sequence[Json], text: str) -> None:
    print(json.dumps(found, indent=2, ensure_ascii=False) if chosen.output == "json" else text)


def _flows(chosen: argparse.Namespace) -> None:
    arguments = {name: getattr(chosen, name) for name in ("pod", "intercept", "recent", "follow")}
    found = _lines(chosen, "flows", arguments)
    if not chosen.follow:
        listed = list(found)
        _show(chosen, listed, show_flows.text(listed))
        return
    as_json = chosen.output == "json"
    if not as_json:
        print(show_flows.line(show_flows.COLUMNS), flush=True)
    for one in found:
        for text in [json.dumps(one, ensure_ascii=False)] if as_json else show_flows.event(one):
            print(text, flush=True)


def _about(chosen: argparse.Namespace) -> dict[str, Any]:
    pod, _, rest = chosen.pod.rpartition(":")
    port, _, protocol = rest.partition("/")
    if not pod or not port.isascii() or not port.isdecimal():
        raise InvalidError(f"{chosen.pod!r} is not NAMESPACE/POD:PORT", "such as shop/web-1:8080, or shop/web-1:53/udp")
    return {
        "pod": pod,
        "port": int(port),
        "protocol": protocol.upper(),
        "from": chosen.source,
        "headers": chosen.header,
        "method": chosen.method,
        "path": chosen.path,
        "try": not chosen.no_try,
    }


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidError(f"{text!r} is not NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _lines(chosen: argparse.Namespace, question: str, arguments: Mapping[str, Any]) -> Iterator[Json]:
    for one in _ask(chosen.socket, question, arguments):
        if not isinstance(one, bytes):
            yield one


def _ask(path: Path, question: str, arguments: Mapping[str, Any]) -> Iterator[Json | bytes]:
    """The answer as it comes. Raises TproxyError."""
    reader = AnswerReader()
    hint = "`python -m tproxy_node debug status --offline` shows what the kernel holds"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as asking:
        asking.settimeout(SECONDS)
        try:
            asking.connect(str(path))
            asking.sendall(json.dumps({"question": question, "arguments": arguments}).encode() + b"\n")
            while data := asking.recv(CHUNK):
                yield from reader.feed(data)
                if reader.form:
                    asking.settimeout(None)
            reader.end()
        except TimeoutError as error:
            who = offline.daemon(path, Path("/proc"))
            text = f"the node daemon (process {who['pid']}) has not answered for {SECONDS:g} s: it {who['state']}"
            raise ClusterError(text, hint) from error
        except OSError as error:
            text = f"no node daemon answers at {path}: {error.strerror or error}"
            raise ClusterError(text, f"{hint}; `--socket` names another place") from error
