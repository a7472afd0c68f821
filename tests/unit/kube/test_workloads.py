"""From names to pods, and from pods to their owners."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.kube.server import ApiServer, connected, status_object
from tproxy.errors import ClusterError, DeniedError, InvalidError
from tproxy.kube import owners as owners_module
from tproxy.kube.api import ApiCluster
from tproxy.kube.port import Object
from tproxy.kube.workloads import OwnerChains, Resolved, names, resolve
from tproxy.model.intercept import Target
from tproxy.model.pod import OwnerRef, Pod
from tproxy.model.workload import parse_target

CORE, APPS, BATCH = (f"{prefix}/namespaces/shop" for prefix in ("/api/v1", "/apis/apps/v1", "/apis/batch/v1"))
FORBIDDEN = (403, status_object(403, "Forbidden", "User x cannot get resource y"))


def owner(kind: str, name: str, api_version: str = "apps/v1") -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": f"uid-{kind}-{name}", "controller": True}


def obj(kind: str, name: str, *owners: dict[str, Any], **parts: Any) -> Object:
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{kind}-{name}", "resourceVersion": "1"}
    return {"metadata": metadata | ({"ownerReferences": list(owners)} if owners else {}), **parts}


def pod(name: str, *owners: dict[str, Any], phase: str = "Running", **labels: str) -> Object:
    made = obj("Pod", name, *owners, spec={"nodeName": "n1"}, status={"phase": phase})
    made["metadata"]["labels"] = labels
    return made


def workload(kind: str, name: str, *owners: dict[str, Any], **labels: str) -> Object:
    return obj(kind, name, *owners, spec={"selector": {"matchLabels": labels}})


def shop(server: ApiServer) -> None:
    """A Deployment with two ReplicaSets, its Service, a bare pod, and a canary whose labels include the former's."""
    replicas = owner("ReplicaSet", "web-5d"), owner("ReplicaSet", "web-6e")
    server.objects(
        f"{CORE}/pods",
        pod("web-5d-a", replicas[0], app="web"),
        pod("web-6e-b", replicas[1], app="web"),
        pod("web-6e-c", replicas[1], phase="Pending", app="web"),
        pod("web-5d-old", replicas[0], phase="Succeeded", app="web"),
        pod("canary-x", owner("ReplicaSet", "canary-1"), app="web", track="canary"),
        pod("bare", app="bare"),
    )
    server.objects(
        f"{APPS}/replicasets",
        workload("ReplicaSet", "web-5d", owner("Deployment", "web"), app="web"),
        workload("ReplicaSet", "web-6e", owner("Deployment", "web"), app="web"),
        workload("ReplicaSet", "canary-1", owner("Deployment", "canary"), app="web", track="canary"),
    )
    server.objects(
        f"{APPS}/deployments",
        workload("Deployment", "web", app="web"),
        workload("Deployment", "canary", app="web", track="canary"),
    )
    server.objects(f"{APPS}/statefulsets")
    server.objects(f"{APPS}/daemonsets")
    server.objects(f"{BATCH}/jobs")
    server.objects(
        f"{CORE}/services",
        obj("Service", "web", spec={"selector": {"app": "web"}, "ports": [{"port": 80}]}),
        obj("Service", "front", spec={"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}),
        obj("Service", "external", spec={"ports": [{"port": 80}]}),
    )


def with_shop(work: Callable[[ApiServer, ApiCluster], Awaitable[Any]]) -> Any:
    """Run `work(server, cluster)` against the shop."""

    async def main() -> Any:
        async with connected() as (server, cluster):
            shop(server)
            return await work(server, cluster)

    return asyncio.run(main())


def found(text: str) -> Resolved:
    async def work(_: ApiServer, cluster: ApiCluster) -> Resolved:
        return await resolve(cluster, "shop", parse_target(text))

    resolved = with_shop(work)
    assert isinstance(resolved, Resolved)
    return resolved


def pod_names(resolved: Resolved) -> list[str]:
    return [each.name for each in resolved.pods]


@pytest.mark.parametrize("text", ["web", "deploy/web"])
def test_a_deployment_and_the_pods_of_all_its_replicasets(text: str) -> None:
    resolved = found(text)
    assert resolved.target == Target("Deployment", "web")
    # Not the canary's, though its labels match; not those that have finished.
    assert pod_names(resolved) == ["web-5d-a", "web-6e-b", "web-6e-c"]
    assert resolved.service is None


def test_one_replicaset() -> None:
    resolved = found("rs/web-6e")
    assert resolved.target == Target("ReplicaSet", "web-6e")
    assert pod_names(resolved) == ["web-6e-b", "web-6e-c"]


def test_a_pod() -> None:
    for text in ("bare", "pod/bare"):
        resolved = found(text)
        assert resolved.target == Target("Pod", "bare")
        assert pod_names(resolved) == ["bare"]


def test_a_service() -> None:
    for text in ("front", "svc/front"):
        resolved = found(text)
        assert resolved.target == Target("Service", "front")
        assert resolved.service is not None
        assert resolved.service.ports[0].target == "http"
        assert "web-5d-a" in pod_names(resolved)


def test_a_service_without_selector() -> None:
    with pytest.raises(InvalidError, match='the Service "external" has no selector'):
        found("svc/external")


def test_the_selector_is_the_api_servers_business() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        await resolve(cluster, "shop", parse_target("web"))
        await resolve(cluster, "shop", parse_target("svc/web"))
        listed = [each.query["labelSelector"] for each in server.seen if each.path == f"{CORE}/pods"]
        assert listed == ["app=web", "app=web"]

    with_shop(work)


def test_all_forms_of_selectors() -> None:
    rules = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "track", "operator": "NotIn", "values": ["canary"]},
        {"key": "app", "operator": "Exists"},
        {"key": "old", "operator": "DoesNotExist"},
    ]

    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        selector = {"matchLabels": {"app": "web"}, "matchExpressions": rules}
        server.objects(f"{APPS}/statefulsets", obj("StatefulSet", "db", spec={"selector": selector}))
        resolved = await resolve(cluster, "shop", parse_target("db"))
        assert resolved == Resolved(Target("StatefulSet", "db"), [])
        (query,) = (each.query for each in server.seen if each.path == f"{CORE}/pods")
        assert query["labelSelector"] == "app=web,tier in (a,b),track notin (canary),app,!old"

    with_shop(work)


def test_a_kind_of_its_own_is_found_by_what_it_owns() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        rollout = owner("Rollout", "pay", "argoproj.io/v1alpha1")
        server.objects(f"{CORE}/pods", pod("pay-1-a", owner("ReplicaSet", "pay-1")), pod("bare"))
        server.objects(f"{APPS}/replicasets", workload("ReplicaSet", "pay-1", rollout))
        resolved = await resolve(cluster, "shop", parse_target("Rollout/pay"))
        assert resolved.target == Target("Rollout", "pay")
        assert pod_names(resolved) == ["pay-1-a"]
        with pytest.raises(InvalidError, match='no pod in namespace "shop" belongs to a Rollout "other"'):
            await resolve(cluster, "shop", parse_target("Rollout/other"))

    with_shop(work)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("webb", 'no workload "webb" in namespace "shop"', "did you mean `web`?"),
        ("canari", 'no workload "canari" in namespace "shop"', "did you mean `canary`?"),
        ("deploy/webb", 'no Deployment "webb" in namespace "shop"', "did you mean `deployment/web`?"),
        ("pod/bar", 'no Pod "bar" in namespace "shop"', "did you mean `pod/bare`?"),
        ("zzz", 'no workload "zzz" in namespace "shop"', "there are `bare`, `canary`, `external`, `front`, `web`"),
        ("sts/web", 'no StatefulSet "web" in namespace "shop"', "choose another with `--namespace NAME`"),
    ],
)
def test_what_does_not_exist(text: str, message: str, hint: str) -> None:
    with pytest.raises(InvalidError) as raised:
        found(text)
    assert raised.value.message == message
    assert hint in raised.value.hint


def test_kinds_that_we_may_not_read_are_skipped() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        for kind in ("statefulsets", "daemonsets", "replicasets"):
            for path in [path for _, path in server.answers if path.startswith(f"{APPS}/{kind}")]:
                server.answers["GET", path] = FORBIDDEN
        server.answers["GET", f"{APPS}/statefulsets/web"] = FORBIDDEN
        server.answers["GET", f"{APPS}/daemonsets/web"] = FORBIDDEN
        server.answers["GET", f"{APPS}/replicasets/web"] = FORBIDDEN
        resolved = await resolve(cluster, "shop", parse_target("web"))
        assert resolved.target == Target("Deployment", "web")
        # Without the ReplicaSets nothing better than the labels is known.
        assert pod_names(resolved) == ["web-5d-a", "web-6e-b", "web-6e-c", "canary-x"]
        assert await names(cluster, "shop") == ["bare", "canary", "external", "front", "web"]

    with_shop(work)


def test_nothing_may_be_read() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        for kind in ("deployments", "statefulsets", "daemonsets", "replicasets"):
            server.answers["GET", f"{APPS}/{kind}/web"] = FORBIDDEN
        server.answers["GET", f"{BATCH}/jobs/web"] = FORBIDDEN
        for kind in ("pods", "services"):
            server.answers["GET", f"{CORE}/{kind}/web"] = FORBIDDEN
        with pytest.raises(DeniedError, match=r'you may not get deployments\.apps in namespace "shop"'):
            await resolve(cluster, "shop", parse_target("web"))

    with_shop(work)


def test_an_api_server_in_trouble_is_not_an_unknown_workload() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        server.answers["GET", f"{APPS}/daemonsets/web"] = (500, {})
        with pytest.raises(ClusterError, match="failed to get daemonsets"):
            await resolve(cluster, "shop", parse_target("web"))

    with_shop(work)


def a_pod(*owners: OwnerRef) -> Pod:
    return Pod("shop", "p", "u", owners=owners)


REPLICASET = OwnerRef("apps/v1", "ReplicaSet", "web-5d", "uid-ReplicaSet-web-5d", True)


def test_the_owner_chain_is_read_once() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        chains = OwnerChains(cluster)
        read = await asyncio.gather(*(chains.chain(a_pod(REPLICASET)) for _ in range(20)))
        assert set(read) == {(("ReplicaSet", "web-5d"), ("Deployment", "web"))}
        assert [each.path for each in server.seen] == [f"{APPS}/replicasets/web-5d", f"{APPS}/deployments/web"]

    with_shop(work)


def test_no_owner() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        assert await OwnerChains(cluster).chain(a_pod()) == ()
        assert server.seen == []

    with_shop(work)


@pytest.mark.parametrize(
    "answer",
    [
        FORBIDDEN,
        (404, {}),
        workload("ReplicaSet", "another-of-that-name"),
        {"metadata": 3},
        {"metadata": {"uid": REPLICASET.uid, "ownerReferences": "x"}},
    ],
)
def test_an_owner_that_cannot_be_read_ends_the_chain_and_is_remembered(
    answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        path = f"{APPS}/replicasets/web-5d"
        good = server.answers["GET", path]
        server.answers["GET", path] = answer
        chains = OwnerChains(cluster)
        for _ in range(2):
            read = await chains.read(a_pod(REPLICASET))
            assert (read.owners, read.complete) == ((("ReplicaSet", "web-5d"),), False)
        assert len(server.seen) == 1
        # But not for long.
        monkeypatch.setattr(owners_module, "UNREADABLE_SECONDS", -1.0)
        chains = OwnerChains(cluster)
        await chains.chain(a_pod(REPLICASET))
        server.answers["GET", path] = good
        assert await chains.chain(a_pod(REPLICASET)) == (("ReplicaSet", "web-5d"), ("Deployment", "web"))

    with_shop(work)


def test_an_owner_of_a_kind_that_is_not_served() -> None:
    async def work(_: ApiServer, cluster: ApiCluster) -> None:
        ghost = OwnerRef("ghost.io/v1", "Ghost", "g", "uid-g")
        assert await OwnerChains(cluster).chain(a_pod(ghost)) == (("Ghost", "g"),)

    with_shop(work)


def test_an_api_server_in_trouble_is_said() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        server.answers["GET", f"{APPS}/replicasets/web-5d"] = (503, {})
        chains = OwnerChains(cluster)
        for _ in range(2):
            with pytest.raises(ClusterError):
                await chains.chain(a_pod(REPLICASET))
        assert len(server.seen) == 2

    with_shop(work)


def test_owners_in_a_circle() -> None:
    async def work(server: ApiServer, cluster: ApiCluster) -> None:
        server.objects(f"{APPS}/deployments", workload("Deployment", "web", owner("ReplicaSet", "web-5d")))
        chain = await OwnerChains(cluster).chain(a_pod(REPLICASET))
        assert chain == (("ReplicaSet", "web-5d"), ("Deployment", "web"))

    with_shop(work)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners_module, "_CACHE_SIZE", 3)

    async def work(_: ApiServer, cluster: ApiCluster) -> None:
        chains = OwnerChains(cluster)
        for index in range(9):
            await chains.chain(a_pod(OwnerRef("apps/v1", "ReplicaSet", f"r{index}", f"u{index}")))
        assert len(chains._known) == 3

    with_shop(work)
