"""tproxy's own client and objects against the API server: what the definitions enforce, and watches end to end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tproxy.errors import DeniedError, InvalidError
from tproxy.kube.api import ApiCluster
from tproxy.kube.config import load
from tproxy.kube.errors import AlreadyExistsError, NotFoundError, StaleError
from tproxy.kube.port import DEPLOYMENTS, INTERCEPTS, PODS, SESSIONS, Applied, Removed, Synced, WatchEvent
from tproxy.model.intercept import Intercept, InterceptPort, NodeState, NodeStatus, PodStatus, Target
from tproxy.model.match import HeaderMatch, Match, PathMatch
from tproxy.model.session import Session, hash_token

from .conftest import Server

Work = Callable[[ApiCluster], Awaitable[None]]


def with_cluster(kubeconfig: Path, work: Work, user: str = "admin") -> None:
    """Run `work` as `user`."""

    async def main() -> None:
        cluster = ApiCluster(load(str(kubeconfig), user))
        try:
            async with asyncio.timeout(20):
                await work(cluster)
        finally:
            await cluster.close()

    asyncio.run(main())


SESSION = Session(
    "default", "laptop-1", "", hash_token(bytes(32)), "admin", "laptop", datetime(2026, 1, 1, tzinfo=UTC), 3600
)


async def a_session(cluster: ApiCluster) -> Session:
    """A Session in the cluster."""
    return Session.from_object(await cluster.create(SESSIONS, SESSION.to_object(), "default"))


def intercept_of(session: Session, **changes: Any) -> Intercept:
    """An Intercept that belongs to `session`."""
    ports = (InterceptPort(80), InterceptPort(53, "UDP"))
    made = Intercept("default", "web-1a2b", "", session.name, session.uid, Target("Deployment", "web"), ports)
    return replace(made, **changes)


def test_what_the_model_writes_it_reads_back(kubeconfig: Path) -> None:
    async def work(cluster: ApiCluster) -> None:
        session = await a_session(cluster)
        assert session == replace(SESSION, uid=session.uid)
        wanted = intercept_of(session, match=Match((HeaderMatch("x-user", "ada"),), PathMatch("/a"), "GET"))
        stored = Intercept.from_object(await cluster.create(INTERCEPTS, wanted.to_object(), "default"))
        assert stored.created is not None
        assert stored == replace(wanted, uid=stored.uid, created=stored.created)

    with_cluster(kubeconfig, work)


def test_nodes_write_their_status_beside_each_other(kubeconfig: Path) -> None:
    async def work(cluster: ApiCluster) -> None:
        wanted = intercept_of(await a_session(cluster))
        await cluster.create(INTERCEPTS, wanted.to_object(), "default")

        async def say(node: str, status: NodeStatus | None) -> Intercept:
            patch = Intercept.status_patch(node, status)
            return Intercept.from_object(await cluster.patch(INTERCEPTS, wanted.name, patch, "default", "status"))

        refused = NodeStatus(NodeState.REFUSED, "HostNetwork", "the pod has the node's network")
        ready = NodeStatus(NodeState.READY, pods=(PodStatus("p", "u", NodeState.READY),))
        await say("node1", refused)
        assert (await say("node2", ready)).nodes == {"node1": refused, "node2": ready}
        assert (await say("node1", replace(ready, pods=()))).nodes["node1"] == replace(ready, pods=())
        assert (await say("node1", None)).nodes == {"node2": ready}

    with_cluster(kubeconfig, work)


@pytest.mark.parametrize(
    "patch",
    [
        {"tokenHash": "1" * 64},
        {"user": "eve"},
        {"ttlSeconds": 3599},
        {"tokenHash": None},
        {"renewTime": "yesterday"},
    ],
)
def test_what_a_session_may_not_become(kubeconfig: Path, patch: dict[str, Any]) -> None:
    async def work(cluster: ApiCluster) -> None:
        session = await a_session(cluster)
        with pytest.raises(InvalidError):
            await cluster.patch(SESSIONS, session.name, {"spec": patch}, "default")
        later = datetime(2026, 1, 2, tzinfo=UTC)
        renewed = await cluster.patch(SESSIONS, session.name, Session.renew_patch(later), "default")
        assert Session.from_object(renewed) == replace(session, renew_time=later)

    with_cluster(kubeconfig, work)


@pytest.mark.parametrize(
    "patch",
    [
        {"session": "other"},
        {"target": {"name": "other"}},
        {"target": {"kind": "Pod"}},
        {"ports": []},
        {"ports": [{"port": 0}]},
        {"ports": [{"port": 65536}]},
        {"ports": [{"port": 80, "protocol": "SCTP"}]},
        {"ports": [{"port": port} for port in range(1, 34)]},
        {"match": {"method": "get"}},
        {"match": {}},
        {"onDisconnect": "shrug"},
    ],
)
def test_what_an_intercept_may_not_become(kubeconfig: Path, patch: dict[str, Any]) -> None:
    async def work(cluster: ApiCluster) -> None:
        wanted = intercept_of(await a_session(cluster))
        await cluster.create(INTERCEPTS, wanted.to_object(), "default")
        with pytest.raises(InvalidError):
            await cluster.patch(INTERCEPTS, wanted.name, {"spec": patch}, "default")

    with_cluster(kubeconfig, work)


def test_a_dry_run_checks_and_leaves_nothing(kubeconfig: Path) -> None:
    async def work(cluster: ApiCluster) -> None:
        await cluster.create(SESSIONS, SESSION.to_object(), "default", dry_run=True)
        with pytest.raises(InvalidError):
            await cluster.create(SESSIONS, replace(SESSION, ttl_seconds=1).to_object(), "default", dry_run=True)
        assert await cluster.list(SESSIONS) == []

    with_cluster(kubeconfig, work)


def test_errors_that_callers_tell_apart(kubeconfig: Path) -> None:
    async def work(cluster: ApiCluster) -> None:
        session = await a_session(cluster)
        with pytest.raises(AlreadyExistsError):
            await a_session(cluster)
        with pytest.raises(NotFoundError):
            await cluster.get(SESSIONS, "none", "default")
        with pytest.raises(StaleError):
            await cluster.delete(SESSIONS, session.name, "default", uid="another")
        await cluster.delete(SESSIONS, session.name, "default", uid=session.uid)
        await cluster.delete(SESSIONS, session.name, "default", uid=session.uid)

    with_cluster(kubeconfig, work)


def test_a_watch_sees_a_session_take_its_intercepts_with_it(kubeconfig: Path) -> None:
    async def work(cluster: ApiCluster) -> None:
        session = await a_session(cluster)
        wanted = intercept_of(session)
        await cluster.create(INTERCEPTS, wanted.to_object(), "default")
        async with aclosing(cluster.watch(INTERCEPTS)) as events:
            assert isinstance(await anext(events), Applied)
            assert isinstance(await anext(events), Synced)
            await cluster.patch(
                INTERCEPTS, wanted.name, Intercept.status_patch("n", NodeStatus(NodeState.READY)), "default", "status"
            )
            changed = await anext(events)
            assert isinstance(changed, Applied)
            assert Intercept.from_object(changed.object).nodes == {"n": NodeStatus(NodeState.READY)}
            await cluster.delete(SESSIONS, session.name, "default")
            assert isinstance(await _removal(events), Removed)

    with_cluster(kubeconfig, work)


async def _removal(events: AsyncIterator[WatchEvent]) -> WatchEvent:
    """The next event that isn't a change."""
    while isinstance(event := await anext(events), Applied):
        pass
    return event


def test_a_watch_outlives_what_the_server_remembers(kubeconfig: Path, server: Server) -> None:
    """More changes than its history holds happen at once; in the end the watch knows the truth."""

    async def work(cluster: ApiCluster) -> None:
        async with aclosing(cluster.watch(SESSIONS)) as events:
            assert isinstance(await anext(events), Synced)

            def churn(store: Any) -> None:
                for index in range(200):
                    store.create(SESSIONS, replace(SESSION, name=f"s{index}").to_object())
                for index in range(199):
                    store.delete(SESSIONS, f"s{index}", "default")

            await asyncio.to_thread(server.call, churn)
            known: set[str] = set()
            while known != {"s199"}:
                match await anext(events):
                    case Applied(obj):
                        known.add(obj["metadata"]["name"])
                    case Removed(obj):
                        known.discard(obj["metadata"]["name"])

    with_cluster(kubeconfig, work)


def test_rights_and_names(kubeconfig: Path) -> None:
    async def developer(cluster: ApiCluster) -> None:
        assert await cluster.whoami() == "dora"
        assert await cluster.may("create", INTERCEPTS, "default")
        assert not await cluster.may("create", INTERCEPTS, "kube-system")
        assert await cluster.may("get", PODS, "tproxy-system", "portforward")

    async def nobody(cluster: ApiCluster) -> None:
        assert not await cluster.may("create", INTERCEPTS, "default")
        with pytest.raises(DeniedError) as raised:
            await a_session(cluster)
        assert raised.value.message == 'you may not create sessions.tproxy.dev in namespace "default"'

    with_cluster(kubeconfig, developer, "dora")
    with_cluster(kubeconfig, nobody, "nemo")


def test_discovery(kubeconfig: Path) -> None:
    async def work(cluster: ApiCluster) -> None:
        cluster._resources.clear()  # even of the kinds it knows by heart
        for resource in (DEPLOYMENTS, PODS, SESSIONS, INTERCEPTS):
            assert await cluster.resource_for(resource.api_version, resource.kind) == resource

    with_cluster(kubeconfig, work)
