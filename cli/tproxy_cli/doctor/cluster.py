"""Checks of the cluster as the user sees it, and of tproxy in it.

kubeconfig ─▶ API server ─┬▶ rights in the namespace, rights to reach the node daemons
                          ├▶ what the nodes run on, DNS, Pod Security (`surroundings`)
                          ├▶ kinds served
                          └▶ node daemons: one on each node, ready, of our version
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from tproxy.errors import TproxyError
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import ClusterConfig, load
from tproxy.kube.errors import Call, NotFoundError
from tproxy.kube.port import INTERCEPTS, PODS, SESSIONS, Resource
from tproxy.model.direct import Transport
from tproxy.text.units import latency
from tproxy_cli import roles
from tproxy_cli.doctor import nodes, surroundings
from tproxy_cli.doctor.finding import CLUSTER, TPROXY, Finding, failed
from tproxy_cli.doctor.nodes import SYSTEM_NAMESPACE

SECONDS = 10.0
"""How long one check may take."""

RIGHTS: Sequence[tuple[str, Resource]] = (
    *((verb, SESSIONS) for verb in ("create", "patch", "delete", "list")),
    *((verb, INTERCEPTS) for verb in ("create", "patch", "delete", "list", "watch")),
    ("list", PODS),
)


async def check(
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    transport: Callable[[str], Transport] = lambda context: "port-forward",
) -> list[Finding]:
    """All checks, those that can side by side. What needs an answer that did not come is left out.

    `transport` says of a context how its nodes are reached.
    """
    try:
        config = await asyncio.to_thread(load, kubeconfig, context)
    except TproxyError as error:
        return [failed(CLUSTER, "kubeconfig", error)]
    namespace = namespace or config.namespace
    text = f'context "{config.context}", namespace "{namespace}"'
    findings = [Finding(CLUSTER, "kubeconfig", "pass", text)]
    cluster = ApiCluster(config)
    try:
        server = await _bounded("api-server", CLUSTER, _server(cluster, config))
        findings += server
        if any(finding.outcome == "fail" for finding in server):
            return findings
        groups = await asyncio.gather(
            _bounded("user", CLUSTER, _user(cluster)),
            _bounded("rights", CLUSTER, _rights(cluster, namespace)),
            *(_bounded(name, category, look(cluster)) for category, name, look in surroundings.CHECKS),
            _bounded("kinds", TPROXY, _kinds(cluster)),
            _bounded("node-daemons", TPROXY, nodes.check(cluster, transport(config.context))),
        )
        found = findings + [finding for group in groups for finding in group]
        return sorted(found, key=lambda finding: finding.category != CLUSTER)  # what belongs together, in its order
    finally:
        await cluster.close()


async def _bounded(name: str, category: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    """`check`, with an error or a lack of an answer as a finding."""
    try:
        async with asyncio.timeout(SECONDS):
            return await check
    except TimeoutError:
        hint = "see what `kubectl get --raw /readyz` says"
        return [Finding(category, name, "fail", f"no answer within {SECONDS:.0f} s", hint)]
    except TproxyError as error:
        return [failed(category, name, error)]


async def _server(cluster: ApiCluster, config: ClusterConfig) -> list[Finding]:
    began = time.monotonic()
    answer = await cluster.transport.json("GET", "/version", Call("get", "version"))
    took = latency(time.monotonic() - began)
    version = str(answer.get("gitVersion", "of unknown version"))
    return [Finding(CLUSTER, "api-server", "pass", f"{config.server} {version}, answered in {took}")]


async def _user(cluster: ApiCluster) -> list[Finding]:
    name = await cluster.whoami()
    return [Finding(CLUSTER, "user", "pass", name or "the API server does not say (Kubernetes 1.28 and later do)")]


async def _rights(cluster: ApiCluster, namespace: str) -> list[Finding]:
    """One line for each namespace, and one for each right that is missing there."""
    # A port-forward by WebSocket is a GET; from Kubernetes 1.35 on the API server asks for `create` as well.
    work = [(verb, resource, "") for verb, resource in RIGHTS]
    reach = [("list", PODS, ""), ("get", PODS, "portforward"), ("create", PODS, "portforward")]
    return [
        *await _rights_in(cluster, namespace, "intercept", roles.DEVELOPER, work),
        *await _rights_in(cluster, SYSTEM_NAMESPACE, "reach-nodes", roles.REACH_NODES, reach),
    ]


async def _rights_in(
    cluster: ApiCluster, namespace: str, purpose: str, role: str, rights: Sequence[roles.Right]
) -> list[Finding]:
    answers = await asyncio.gather(*(cluster.may(verb, kind, namespace, sub) for verb, kind, sub in rights))
    missing = [right for right, allowed in zip(rights, answers, strict=True) if not allowed]
    if not missing:
        text = f'{len(rights)} of {len(rights)} rights in namespace "{namespace}"'
        return [Finding(CLUSTER, f"rights-to-{purpose}", "pass", text)]
    return [Finding(CLUSTER, f"rights-to-{purpose}", "fail", *roles.all_denied(missing, len(rights), namespace, role))]


async def _kinds(cluster: ApiCluster) -> list[Finding]:
    path = f"/apis/{INTERCEPTS.api_version}"
    try:
        answer = await cluster.transport.json("GET", path, Call("get", INTERCEPTS.api_version))
    except NotFoundError:
        return [
            Finding(
                TPROXY,
                "kinds",
                "fail",
                f"tproxy is not installed: the cluster does not serve {INTERCEPTS.api_version}",
                "ask an administrator to install the chart",
            )
        ]
    listed = answer.get("resources")
    served = {item.get("name") for item in listed if isinstance(item, dict)} if isinstance(listed, list) else set()
    wanted = {SESSIONS.plural, INTERCEPTS.plural, f"{INTERCEPTS.plural}/status"}
    if absent := sorted(wanted - served):
        text = f"{INTERCEPTS.api_version} lacks {', '.join(absent)}"
        return [Finding(TPROXY, "kinds", "fail", text, "ask an administrator to upgrade the chart")]
    return [Finding(TPROXY, "kinds", "pass", f"{INTERCEPTS.api_version} serves sessions and intercepts")]
