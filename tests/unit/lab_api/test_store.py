"""The store: versions, preconditions, the status split, graceful deletion, watches."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tproxy.errors import DeniedError, InvalidError
from tproxy.kube.errors import AlreadyExistsError, NotFoundError, StaleError
from tproxy.kube.port import (
    CONFIGMAPS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    Applied,
    Object,
    Removed,
    Synced,
    WatchEvent,
)
from tproxy.lab.api.errors import ExpiredError
from tproxy.lab.api.store import Store


def config_map(name: str = "c", **data: str) -> Object:
    return {"metadata": {"name": name}, "data": data}


def pod(name: str = "p", node: str = "") -> Object:
    spec: Object = {"containers": [{"name": "c"}]} | ({"nodeName": node} if node else {})
    return {"metadata": {"name": name}, "spec": spec}


def test_create_fills_in_what_the_server_owns(store: Store) -> None:
    body = config_map(a="b")
    body["metadata"] |= {"uid": "mine", "resourceVersion": "7", "creationTimestamp": "1999-01-01T00:00:00Z"}
    created = store.create(CONFIGMAPS, body)
    metadata = created["metadata"]
    assert (created["apiVersion"], created["kind"], metadata["namespace"]) == ("v1", "ConfigMap", "default")
    assert metadata["uid"] != "mine"
    assert metadata["resourceVersion"] == str(store.version)
    assert metadata["creationTimestamp"] > "2000"
    assert body["metadata"]["uid"] == "mine"


def test_create_refuses_a_name_in_use_a_bad_name_and_an_unknown_namespace(store: Store) -> None:
    store.create(CONFIGMAPS, config_map())
    with pytest.raises(AlreadyExistsError, match='configmaps "c" already exists'):
        store.create(CONFIGMAPS, config_map())
    with pytest.raises(InvalidError, match=r"metadata\.name"):
        store.create(CONFIGMAPS, config_map("No_Good"))
    with pytest.raises(NotFoundError, match='namespaces "nowhere" not found'):
        store.create(CONFIGMAPS, config_map(), "nowhere")


def test_generated_names_differ(store: Store) -> None:
    body = {"metadata": {"generateName": "c-"}}
    names = {store.create(CONFIGMAPS, body)["metadata"]["name"] for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("c-") and len(name) == 7 for name in names)


def test_what_is_handed_out_is_a_copy(store: Store) -> None:
    store.create(CONFIGMAPS, config_map(a="b"))
    store.get(CONFIGMAPS, "c")["data"]["a"] = "changed"
    store.list(CONFIGMAPS)[0]["data"]["a"] = "changed"
    assert store.get(CONFIGMAPS, "c")["data"] == {"a": "b"}


def test_an_outdated_write_is_refused_and_a_current_one_counts_up(store: Store) -> None:
    first = store.create(CONFIGMAPS, config_map(a="1"))
    second = store.update(CONFIGMAPS, first | {"data": {"a": "2"}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    assert second["metadata"]["generation"] == 2
    with pytest.raises(StaleError, match="the object has been modified"):
        store.update(CONFIGMAPS, first | {"data": {"a": "3"}})
    outdated = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"a": "3"}}
    with pytest.raises(StaleError):
        store.patch(CONFIGMAPS, "c", outdated)
    assert store.patch(CONFIGMAPS, "c", {"data": {"a": None, "b": "4"}})["data"] == {"b": "4"}


def test_a_write_that_changes_nothing_is_none(store: Store) -> None:
    created = store.create(CONFIGMAPS, config_map(a="1"))
    assert store.patch(CONFIGMAPS, "c", {"data": {"a": "1"}}) == created
    assert store.version == int(created["metadata"]["resourceVersion"])


def test_identity_cannot_be_changed(store: Store) -> None:
    created = store.create(CONFIGMAPS, config_map())
    patched = store.patch(CONFIGMAPS, "c", {"metadata": {"creationTimestamp": "1999-01-01T00:00:00Z"}})
    assert patched["metadata"]["creationTimestamp"] == created["metadata"]["creationTimestamp"]
    with pytest.raises(StaleError, match="UID in precondition"):
        store.patch(CONFIGMAPS, "c", {"metadata": {"uid": "another"}})
    with pytest.raises(InvalidError, match="immutable"):
        store.patch(CONFIGMAPS, "c", {"metadata": {"name": "d"}})


def test_status_and_the_rest_are_written_apart(store: Store) -> None:
    created = store.create(PODS, pod() | {"status": {"phase": "Running"}})
    assert created["status"] == {"phase": "Pending"}
    assert store.patch(PODS, "p", {"status": {"phase": "Running"}})["status"] == {"phase": "Pending"}
    both = {"status": {"phase": "Running"}, "spec": {"nodeName": "n"}, "metadata": {"labels": {"a": "b"}}}
    patched = store.patch(PODS, "p", both, subresource="status")
    assert patched["status"] == {"phase": "Running"}
    assert "nodeName" not in patched["spec"]
    assert patched["metadata"]["labels"] == {"a": "b"}, "as a real API server does for pods"
    assert patched["metadata"]["generation"] == 1


def test_a_node_registers_with_its_status(store: Store) -> None:
    node = store.create(NODES, {"metadata": {"name": "n"}, "status": {"addresses": []}})
    assert node["status"] == {"addresses": []}


def test_dry_run_leaves_no_trace(store: Store) -> None:
    before = store.version
    store.create(CONFIGMAPS, config_map(), dry_run=True)
    assert store.version == before
    store.create(CONFIGMAPS, config_map())
    store.delete(CONFIGMAPS, "c", dry_run=True)
    assert store.get(CONFIGMAPS, "c")["metadata"].get("deletionTimestamp") is None


def test_delete_holds_to_its_preconditions(store: Store) -> None:
    created = store.create(CONFIGMAPS, config_map())
    with pytest.raises(StaleError, match="Precondition failed: UID in precondition: other"):
        store.delete(CONFIGMAPS, "c", uid="other")
    with pytest.raises(StaleError):
        store.delete(CONFIGMAPS, "c", resource_version="1")
    store.delete(CONFIGMAPS, "c", uid=created["metadata"]["uid"])
    with pytest.raises(NotFoundError, match='configmaps "c" not found'):
        store.delete(CONFIGMAPS, "c")


def test_a_pod_on_a_node_waits_for_its_kubelet(store: Store) -> None:
    store.create(PODS, pod(node="n"))
    marked = store.delete(PODS, "p")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert store.delete(PODS, "p") == marked
    store.delete(PODS, "p", grace_seconds=0)
    assert store.list(PODS) == []


def test_a_pod_without_a_node_or_with_an_end_goes_at_once(store: Store) -> None:
    store.create(PODS, pod())
    store.delete(PODS, "p")
    store.create(PODS, pod(node="n"))
    store.patch(PODS, "p", {"status": {"phase": "Succeeded"}}, subresource="status")
    store.delete(PODS, "p")
    assert store.list(PODS) == []


def test_finalizers_hold_an_object_until_they_are_removed(store: Store) -> None:
    body = config_map()
    body["metadata"]["finalizers"] = ["tproxy.dev/hold"]
    store.create(CONFIGMAPS, body)
    store.delete(CONFIGMAPS, "c")
    assert "deletionTimestamp" in store.get(CONFIGMAPS, "c")["metadata"]
    store.patch(CONFIGMAPS, "c", {"metadata": {"finalizers": None}})
    assert store.list(CONFIGMAPS) == []


def test_nothing_is_created_in_a_namespace_on_its_way_out(store: Store) -> None:
    store.create(NAMESPACES, {"metadata": {"name": "n"}})
    assert store.delete(NAMESPACES, "n")["status"]["phase"] == "Terminating"
    with pytest.raises(DeniedError, match="because it is being terminated"):
        store.create(CONFIGMAPS, config_map(), "n")


async def collect(events: AsyncIterator[WatchEvent], count: int) -> list[tuple[str, str]]:
    """The next events as (type, name)."""
    seen = []
    async with asyncio.timeout(5):
        while len(seen) < count:
            event = await anext(events)
            name = "" if isinstance(event, Synced) else event.object["metadata"]["name"]
            seen.append((type(event).__name__, name))
    return seen


def test_watch_tells_what_is_there_and_what_changes(store: Store) -> None:
    async def scenario() -> None:
        store.create(PODS, pod("a", node="n1"))
        store.create(PODS, pod("b", node="n2"))
        events = store.watch(PODS, "default", fields="spec.nodeName=n1")
        assert await collect(events, 2) == [("Applied", "a"), ("Synced", "")]
        store.patch(PODS, "b", {"spec": {"nodeName": "n1"}})
        store.patch(PODS, "b", {"spec": {"nodeName": "n2"}})
        store.delete(PODS, "a", grace_seconds=0)
        assert await collect(events, 3) == [("Applied", "b"), ("Removed", "b"), ("Removed", "a")]

    asyncio.run(scenario())


def test_a_late_watcher_starts_afresh_and_misses_nothing(store: Store) -> None:
    async def scenario() -> None:
        store.create(CONFIGMAPS, config_map("gone"))
        events = store.watch(CONFIGMAPS)
        assert await collect(events, 2) == [("Applied", "gone"), ("Synced", "")]
        store.delete(CONFIGMAPS, "gone")
        for index in range(20):
            store.create(CONFIGMAPS, config_map(f"c{index:02}"))
        seen = await collect(events, 22)
        assert seen[0] == ("Removed", "gone")
        assert seen[1:] == [*(("Applied", f"c{index:02}") for index in range(20)), ("Synced", "")]

    asyncio.run(scenario())


def test_the_log_is_bounded_and_says_when_it_is_too_short(store: Store) -> None:
    start = store.version
    for index in range(9):
        store.create(CONFIGMAPS, config_map(f"c{index}"))
    with pytest.raises(ExpiredError, match="too old resource version"):
        store.changes(CONFIGMAPS, start)
    assert [change.last["metadata"]["name"] for change in store.changes(CONFIGMAPS, start + 1)] == [
        f"c{index}" for index in range(1, 9)
    ]
    assert store.changes(SERVICES, start) == []


def test_events_in_a_watch_are_copies(store: Store) -> None:
    async def scenario() -> None:
        events = store.watch(CONFIGMAPS)
        await collect(events, 1)
        store.create(CONFIGMAPS, config_map(a="b"))
        event = await anext(events)
        assert isinstance(event, Applied | Removed)
        event.object["data"]["a"] = "changed"
        assert store.get(CONFIGMAPS, "c")["data"] == {"a": "b"}

    asyncio.run(scenario())


def test_what_is_forgotten_cannot_be_followed(store: Store) -> None:
    """As after a compaction of etcd: from then on only, and what exists is what it was."""
    store.create(CONFIGMAPS, config_map())
    before = store.version
    assert store.changes(CONFIGMAPS, before - 1)
    store.forget()
    with pytest.raises(ExpiredError):
        store.changes(CONFIGMAPS, before)
    assert store.changes(CONFIGMAPS, store.version) == []
    assert [one["metadata"]["name"] for one in store.list(CONFIGMAPS)] == ["c"]
