"""Checks of the node daemons: one on each node, ready, of our version, and within reach."""

import asyncio
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tproxy.errors import DeniedError, TproxyError
from tproxy.kube.api import ApiCluster
from tproxy.kube.port import NODES, PODS, Object
from tproxy.kube.portforward import PortForward
from tproxy.model.direct import DirectWay, Transport
from tproxy.model.pod import Pod
from tproxy.rpc.reach import OTHER_WAY, reach
from tproxy.text.units import latency
from tproxy.version import VERSION
from tproxy_cli import paths
from tproxy_cli.doctor.finding import TPROXY, Finding, failed

SYSTEM_NAMESPACE = "tproxy-system"
NODE_DAEMON_LABELS = "app.kubernetes.io/name=tproxy,app.kubernetes.io/component=node"
VERSION_LABEL = "app.kubernetes.io/version"
HEALTH_PORT = 4771

ASKED = 10
"""How many node daemons are asked for an answer; more would not tell more."""

ANSWER_SECONDS = 5.0

NAMED = 5
"""How many nodes or pods a text names."""

EXPOSE = f"{OTHER_WAY}; administrators expose node daemons with the chart's value `direct.enabled`"
_USED: Mapping[Transport, str] = {
    "port-forward": "port-forward: nodes are reached through the API server",
    "direct": "direct: nodes are reached past the API server, by TLS",
}
BARE = "where they are wanted there, an administrator widens the chart's values `tolerations` and `nodeSelector`"
SEE = f"`kubectl -n {SYSTEM_NAMESPACE} get pods -l {NODE_DAEMON_LABELS} -o wide`"


async def check(cluster: ApiCluster, transport: Transport) -> list[Finding]:
    """All checks; `transport` is how the user reaches nodes. Raises TproxyError where the API server does not tell."""
    listed, nodes = await asyncio.gather(
        cluster.list(PODS, SYSTEM_NAMESPACE, labels=NODE_DAEMON_LABELS), _nodes(cluster)
    )
    pods = [Pod.from_object(each) for each in listed]
    if not pods:
        text = f'no node daemon in namespace "{SYSTEM_NAMESPACE}"'
        return [Finding(TPROXY, "node-daemons", "fail", text, "ask an administrator to install the chart")]
    ready = [pod for pod in pods if pod.ready]
    forwarded, direct = await asyncio.gather(
        _reached(cluster, ready[:ASKED]), directly([each for each in listed if Pod.from_object(each).ready][:ASKED])
    )
    if transport == "direct":
        forwarded = [replace(one, outcome="warn") if one.outcome == "fail" else one for one in forwarded]
        direct = direct or [Finding(TPROXY, "direct", "fail", "no node daemon is exposed", EXPOSE)]
    else:
        direct = [replace(one, outcome="warn") if one.outcome == "fail" else one for one in direct]
    used = Finding(TPROXY, "transport", "pass", _USED[transport])
    return [*_present(pods, ready, nodes), *_versions(pods), used, *forwarded, *direct]


def _present(pods: Sequence[Pod], ready: Sequence[Pod], nodes: set[str] | None) -> list[Finding]:
    findings = []
    serving = {pod.node for pod in ready}
    if unready := sorted({pod.node or pod.name for pod in pods} - serving):
        text = f"not ready on {some(unready)}: workloads there cannot be intercepted"
        findings.append(Finding(TPROXY, "node-daemons", "fail", text, SEE))
    if nodes is not None and (bare := sorted(nodes - {pod.node for pod in pods})):
        text = f"none on {some(bare)}: workloads there cannot be intercepted"
        findings.append(Finding(TPROXY, "node-daemons", "warn", text, BARE))
    if not findings:
        count = f"{len(serving)} of {len(nodes)}" if nodes is not None else str(len(serving))
        findings.append(
            Finding(TPROXY, "node-daemons", "pass", f"ready on {count} {'node' if count == '1' else 'nodes'}")
        )
    return findings


async def _nodes(cluster: ApiCluster) -> set[str] | None:
    """The nodes' names, or None where we may not know them, as most developers."""
    try:
        nodes: Sequence[Mapping[str, Any]] = await cluster.list(NODES)
    except DeniedError:
        return None
    return {str(node["metadata"].get("name", "")) for node in nodes}


def _versions(pods: Iterable[Pod]) -> list[Finding]:
    others = sorted({(pod.labels[VERSION_LABEL], pod.node) for pod in pods if _differs(pod.labels)})
    if not others:
        return []
    text = f"this command is of version {VERSION}, node daemons of {some([f'{one} on {node}' for one, node in others])}"
    hint = (
        f"`pipx install --force kube-tproxy=={others[0][0]}` makes it theirs"
        if len({one for one, _ in others}) == 1
        else f"ask an administrator to upgrade the chart to {VERSION} on all nodes"
    )
    return [Finding(TPROXY, "versions", "warn", text, hint)]


def _differs(labels: Mapping[str, str]) -> bool:
    return labels.get(VERSION_LABEL, VERSION) != VERSION


async def _reached(cluster: ApiCluster, pods: Sequence[Pod]) -> list[Finding]:
    """Whether the daemons answer on the way that tunnels take: that they are ready was found out on another."""
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=paths.runtime_dir()) as directory:
        answers = await asyncio.gather(*(_ask(cluster, pod, directory) for pod in pods))
    findings = []
    for pod, answer in zip(pods, answers, strict=True):
        if isinstance(answer, str):
            hint = f"see what `kubectl -n {pod.namespace} logs {pod.name}` says"
            findings.append(Finding(TPROXY, "port-forward", "fail", f"to the daemon on {pod.node}: {answer}", hint))
    times = [answer for answer in answers if isinstance(answer, float)]
    if times and not findings:
        text = f"reaches {len(times)} node daemon{'' if len(times) == 1 else 's'}, answered in {latency(max(times))}"
        findings.append(Finding(TPROXY, "port-forward", "pass", text))
    return findings


async def directly(pods: Sequence[Object]) -> list[Finding]:
    """Whether the daemons that say they are exposed are: at that address, with that certificate. None say so: empty."""

    async def ask(pod: Object) -> float | TproxyError | None:
        try:
            way = DirectWay.from_annotations(pod["metadata"].get("annotations") or {})
            return await reach(way, str(pod["spec"].get("nodeName", "")), ANSWER_SECONDS) if way is not None else None
        except TproxyError as error:
            return error

    answers = await asyncio.gather(*(ask(pod) for pod in pods))
    if wrong := [failed(TPROXY, "direct", answer) for answer in answers if isinstance(answer, TproxyError)]:
        return wrong
    if not (times := [answer for answer in answers if isinstance(answer, float)]):
        return []
    text = f"reaches {len(times)} node daemon{'' if len(times) == 1 else 's'} by TLS, answered in {latency(max(times))}"
    return [Finding(TPROXY, "direct", "pass", text)]


async def _ask(cluster: ApiCluster, pod: Pod, directory: str) -> float | str:
    """Seconds until the daemon of `pod` said that it is ready, or why it did not."""
    forward = PortForward(cluster, pod.namespace, pod.name, HEALTH_PORT, directory)
    began = time.monotonic()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(await forward.start())
            try:
                writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
                line = await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        return f"no answer within {ANSWER_SECONDS:g} s"
    except TproxyError as error:
        return error.message
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    finally:
        await forward.close()
    if forward.error is not None:
        return forward.error.message
    if line.split()[1:2] != [b"200"]:
        return "it is not ready" if line else "it closed the connection"
    return time.monotonic() - began


def some(names: Sequence[str]) -> str:
    """The first of `names`, and how many more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
