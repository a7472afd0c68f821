"""The controllers, pass by pass."""

import asyncio
from collections.abc import Callable

import pytest

from tproxy.kube.port import (
    CONFIGMAPS,
    DEPLOYMENTS,
    ENDPOINTSLICES,
    INTERCEPTS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    Object,
    Resource,
)
from tproxy.lab.api.store import Store
from tproxy.lab.controllers import deployments, endpointslices, garbage, loop, scheduler
from tproxy.tasks import Tasks

READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def node(store: Store, name: str, status: Object = READY, **metadata: object) -> None:
    store.create(NODES, {"metadata": {"name": name} | metadata, "status": status})


def deployment(replicas: int = 2, image: str = "v1", **spec: object) -> Object:
    containers = [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers}}
    base = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    return {"metadata": {"name": "web"}, "spec": base | spec}


def images(store: Store) -> list[str]:
    living = [pod for pod in store.list(PODS) if "deletionTimestamp" not in pod["metadata"]]
    return sorted(pod["spec"]["containers"][0]["image"] for pod in living)


def make_ready(store: Store, image: str = "") -> None:
    """What kubelets do: every pod (of an image) runs, has addresses and is ready."""
    for number, pod in enumerate(store.list(PODS)):
        if image in pod["spec"]["containers"][0].get("image", ""):
            addresses = [{"ip": f"10.244.1.{number + 1}"}, {"ip": f"fd24:1::{number + 1}"}]
            status = {"phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses, **READY}
            store.patch(PODS, pod["metadata"]["name"], {"status": status}, subresource="status")


def settle(store: Store, *passes: Callable[[Store], None]) -> None:
    """Run passes until nothing changes any more."""
    for _ in range(50):
        before = store.version
        for reconcile in passes:
            reconcile(store)
        if store.version == before:
            return
    raise AssertionError("the controllers never come to rest")


class TestDeployments:
    def test_pods_are_made_of_the_template_and_owned(self, store: Store) -> None:
        made = store.create(DEPLOYMENTS, deployment())
        settle(store, deployments.reconcile)
        pods = store.list(PODS, labels="app=web,pod-template-hash")
        assert len(pods) == 2
        metadata = pods[0]["metadata"]
        assert metadata["name"].startswith(f"web-{metadata['labels']['pod-template-hash']}-")
        owner = metadata["ownerReferences"][0]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Deployment", made["metadata"]["uid"], True)

    def test_scaling(self, store: Store) -> None:
        store.create(DEPLOYMENTS, deployment(1))
        settle(store, deployments.reconcile)
        make_ready(store)
        survivor = store.list(PODS)[0]["metadata"]["name"]
        store.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 3}})
        settle(store, deployments.reconcile)
        assert len(store.list(PODS)) == 3
        store.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 1}})
        settle(store, deployments.reconcile)
        assert [pod["metadata"]["name"] for pod in store.list(PODS)] == [survivor]

    def test_a_failed_or_deleted_pod_is_replaced(self, store: Store) -> None:
        store.create(DEPLOYMENTS, deployment(2))
        settle(store, deployments.reconcile)
        first, second = (pod["metadata"]["name"] for pod in store.list(PODS))
        store.patch(PODS, first, {"status": {"phase": "Failed"}}, subresource="status")
        store.delete(PODS, second)
        settle(store, deployments.reconcile)
        assert len(store.list(PODS)) == 2
        assert {first, second}.isdisjoint(pod["metadata"]["name"] for pod in store.list(PODS))

    def test_a_rollout_never_has_too_few_ready_pods_nor_more_than_one_extra(self, store: Store) -> None:
        store.create(DEPLOYMENTS, deployment(2))
        settle(store, deployments.reconcile)
        make_ready(store)
        store.update(DEPLOYMENTS, deployment(2, "v2"))
        seen = []
        for _ in range(6):
            settle(store, deployments.reconcile)
            assert sum(deployments.is_ready(pod) for pod in store.list(PODS)) >= 2
            assert len(store.list(PODS)) <= 3
            seen.append(images(store))
            make_ready(store)
        assert seen[0] == ["v1", "v1", "v2"]
        assert seen[-1] == ["v2", "v2"]

    def test_an_old_pod_that_never_was_ready_makes_room_at_once(self, store: Store) -> None:
        store.create(DEPLOYMENTS, deployment(1, "broken"))
        settle(store, deployments.reconcile)
        store.update(DEPLOYMENTS, deployment(1, "good"))
        settle(store, deployments.reconcile)
        assert images(store) == ["good"]

    def test_recreate_ends_all_old_pods_first(self, store: Store) -> None:
        store.create(DEPLOYMENTS, deployment(2, strategy={"type": "Recreate"}))
        settle(store, deployments.reconcile)
        make_ready(store)
        store.update(DEPLOYMENTS, deployment(2, "v2", strategy={"type": "Recreate"}))
        deployments.reconcile(store)
        assert images(store) == []
        settle(store, deployments.reconcile)
        assert images(store) == ["v2", "v2"]

    def test_status(self, store: Store) -> None:
        store.create(DEPLOYMENTS, deployment(2))
        settle(store, deployments.reconcile)
        status = store.get(DEPLOYMENTS, "web")["status"]
        assert (status["replicas"], status["readyReplicas"], status["conditions"][0]["status"]) == (2, 0, "False")
        make_ready(store)
        settle(store, deployments.reconcile)
        status = store.get(DEPLOYMENTS, "web")["status"]
        assert (status["readyReplicas"], status["updatedReplicas"], status["observedGeneration"]) == (2, 2, 1)
        assert status["conditions"][0]["status"] == "True"


class TestScheduler:
    def test_pods_of_one_owner_are_spread(self, store: Store) -> None:
        node(store, "n1")
        node(store, "n2")
        store.create(PODS, {"metadata": {"name": "alone"}, "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}})
        store.create(DEPLOYMENTS, deployment(4))
        settle(store, deployments.reconcile, scheduler.reconcile)
        placed = [pod["spec"]["nodeName"] for pod in store.list(PODS, labels="app=web")]
        assert sorted(placed) == ["n1", "n1", "n2", "n2"]

    def test_spread_again_after_a_rollout_and_a_deleted_pod(self, store: Store) -> None:
        node(store, "n1")
        node(store, "n2")

        def nodes() -> list[str]:
            living = [pod for pod in store.list(PODS) if "deletionTimestamp" not in pod["metadata"]]
            return sorted(pod["spec"]["nodeName"] for pod in living)

        store.create(DEPLOYMENTS, deployment(2))
        settle(store, deployments.reconcile, scheduler.reconcile)
        make_ready(store)
        for image in ("v2", "v3", "v4"):
            store.patch(DEPLOYMENTS, "web", {"spec": deployment(2, image)["spec"]})
            while images(store) != [image, image]:
                settle(store, deployments.reconcile, scheduler.reconcile)
                make_ready(store)
            assert nodes() == ["n1", "n2"]
            victim = next(pod for pod in store.list(PODS) if "deletionTimestamp" not in pod["metadata"])
            store.delete(PODS, victim["metadata"]["name"])
            settle(store, deployments.reconcile, scheduler.reconcile)
            make_ready(store)
            assert nodes() == ["n1", "n2"]

    def test_only_ready_nodes_that_fit_the_selector(self, store: Store) -> None:
        node(store, "n1", status={})
        node(store, "n2", labels={"disk": "ssd"})
        node(store, "n3")
        spec = {"containers": [{"name": "c"}], "nodeSelector": {"disk": "ssd"}}
        store.create(PODS, {"metadata": {"name": "fits"}, "spec": spec})
        store.create(PODS, {"metadata": {"name": "waits"}, "spec": spec | {"nodeSelector": {"disk": "tape"}}})
        settle(store, scheduler.reconcile)
        assert store.get(PODS, "fits")["spec"]["nodeName"] == "n2"
        assert "nodeName" not in store.get(PODS, "waits")["spec"]


class TestEndpointSlices:
    @pytest.fixture
    def ready(self, store: Store) -> Store:
        """Two ready pods behind a Service with a named target port."""
        node(store, "n1")
        ports = [{"name": "web", "port": 80, "targetPort": "http"}]
        store.create(SERVICES, {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}})
        store.create(DEPLOYMENTS, deployment(2))
        settle(store, deployments.reconcile, scheduler.reconcile)
        make_ready(store)
        settle(store, endpointslices.reconcile)
        return store

    def test_both_families_with_resolved_ports(self, ready: Store) -> None:
        four, six = ready.list(ENDPOINTSLICES, labels="kubernetes.io/service-name=web")
        assert (four["addressType"], six["addressType"]) == ("IPv4", "IPv6")
        assert four["ports"] == six["ports"] == [{"name": "web", "port": 8080, "protocol": "TCP"}]
        assert [endpoint["addresses"] for endpoint in six["endpoints"]] == [["fd24:1::1"], ["fd24:1::2"]]
        endpoint = four["endpoints"][0]
        assert endpoint["conditions"] == {"ready": True, "serving": True, "terminating": False}
        assert (endpoint["nodeName"], endpoint["targetRef"]["kind"]) == ("n1", "Pod")

    def test_conditions_follow_the_pod(self, ready: Store) -> None:
        name = ready.list(ENDPOINTSLICES)[0]["endpoints"][0]["targetRef"]["name"]
        ready.delete(PODS, name)
        settle(ready, endpointslices.reconcile)
        first, second = (slice_["endpoints"] for slice_ in ready.list(ENDPOINTSLICES))
        by_name = {endpoint["targetRef"]["name"]: endpoint["conditions"] for endpoint in first + second}
        assert by_name[name] == {"ready": False, "serving": True, "terminating": True}
        ready.delete(PODS, name, grace_seconds=0)
        settle(ready, endpointslices.reconcile)
        assert len(ready.list(ENDPOINTSLICES)[0]["endpoints"]) == 1

    def test_pods_that_name_the_port_differently_get_a_slice_of_their_own(self, ready: Store) -> None:
        containers = [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]
        labels = {"app": "web"}
        ready.create(PODS, {"metadata": {"name": "odd", "labels": labels}, "spec": {"containers": containers}})
        make_ready(ready)
        settle(ready, endpointslices.reconcile)
        slices = [s for s in ready.list(ENDPOINTSLICES) if s["addressType"] == "IPv4"]
        assert sorted((s["ports"][0]["port"], len(s["endpoints"])) for s in slices) == [(8080, 2), (9090, 1)]

    def test_slices_of_others_are_left_alone(self, ready: Store) -> None:
        own = {"metadata": {"name": "mine"}, "addressType": "IPv4", "endpoints": []}
        ready.create(ENDPOINTSLICES, own)
        ready.patch(SERVICES, "web", {"spec": {"selector": None}})
        settle(ready, endpointslices.reconcile)
        assert [slice_["metadata"]["name"] for slice_ in ready.list(ENDPOINTSLICES)] == ["mine"]

    def test_publish_not_ready(self, store: Store) -> None:
        spec = {"selector": {"app": "x"}, "clusterIP": "None", "publishNotReadyAddresses": True}
        store.create(SERVICES, {"metadata": {"name": "s"}, "spec": spec})
        labels = {"app": "x"}
        store.create(PODS, {"metadata": {"name": "p", "labels": labels}, "spec": {"containers": [{"name": "c"}]}})
        store.patch(PODS, "p", {"status": {"podIP": "10.244.1.9"}}, subresource="status")
        settle(store, endpointslices.reconcile)
        conditions = store.list(ENDPOINTSLICES)[0]["endpoints"][0]["conditions"]
        assert (conditions["ready"], conditions["serving"]) == (True, False)


def owned(name: str, *owners: tuple[str, str]) -> Object:
    references = [{"apiVersion": "v1", "kind": kind, "name": "o", "uid": uid} for kind, uid in owners]
    return {"metadata": {"name": name, "ownerReferences": references}}


class TestGarbage:
    def test_dependents_go_with_their_last_owner(self, store: Store) -> None:
        first, second = (store.create(CONFIGMAPS, owned(name))["metadata"]["uid"] for name in ("o1", "o2"))
        store.create(CONFIGMAPS, owned("child", ("ConfigMap", first), ("ConfigMap", second)))
        child = store.get(CONFIGMAPS, "child")["metadata"]["uid"]
        store.create(CONFIGMAPS, owned("grandchild", ("ConfigMap", child)))
        store.delete(CONFIGMAPS, "o1")
        settle(store, garbage.reconcile)
        assert len(store.list(CONFIGMAPS)) == 3
        store.delete(CONFIGMAPS, "o2")
        settle(store, garbage.reconcile)
        assert store.list(CONFIGMAPS) == []

    def test_an_owner_that_never_was(self, store: Store) -> None:
        spec = {"spec": {"target": {"kind": "Deployment", "name": "web"}}}
        store.create(INTERCEPTS, owned("i", ("Intercept", "no-such-uid")) | spec)
        store.create(CONFIGMAPS, owned("c", ("ReplicaSet", "not-served-here")))
        settle(store, garbage.reconcile)
        assert store.list(INTERCEPTS) == []
        assert len(store.list(CONFIGMAPS)) == 1

    def test_a_namespace_goes_when_all_in_it_has_gone(self, store: Store) -> None:
        node(store, "n1")
        store.create(NAMESPACES, {"metadata": {"name": "shop"}})
        store.create(DEPLOYMENTS, deployment(1), "shop")
        store.create(CONFIGMAPS, {"metadata": {"name": "c"}}, "shop")
        settle(store, deployments.reconcile, scheduler.reconcile)
        store.delete(NAMESPACES, "shop")
        settle(store, garbage.reconcile, deployments.reconcile)
        pods = store.list(PODS, "shop")
        assert len(pods) == 1
        assert "deletionTimestamp" in pods[0]["metadata"]
        assert store.list(CONFIGMAPS, "shop") == []
        assert store.get(NAMESPACES, "shop")["status"]["phase"] == "Terminating"
        store.delete(PODS, pods[0]["metadata"]["name"], "shop", grace_seconds=0)
        settle(store, garbage.reconcile)
        assert "shop" not in [ns["metadata"]["name"] for ns in store.list(NAMESPACES)]


def test_the_controllers_together(store: Store) -> None:
    async def until(resource: Resource, holds: Callable[[], bool]) -> None:
        while not holds():
            await store.wait([resource], store.version)

    async def scenario() -> None:
        tasks = Tasks("controllers")
        loop.start(store, tasks)
        try:
            node(store, "n1")
            ports = [{"port": 80, "targetPort": "http"}]
            spec = {"selector": {"app": "web"}, "ports": ports}
            store.create(SERVICES, {"metadata": {"name": "web"}, "spec": spec})
            store.create(DEPLOYMENTS, deployment(3))
            async with asyncio.timeout(5):
                await until(PODS, lambda: len(store.list(PODS, fields="spec.nodeName=n1")) == 3)
                make_ready(store)
                await until(DEPLOYMENTS, lambda: store.get(DEPLOYMENTS, "web")["status"]["readyReplicas"] == 3)
                await until(
                    ENDPOINTSLICES,
                    lambda: all(len(slice_["endpoints"]) == 3 for slice_ in store.list(ENDPOINTSLICES)),
                )
                store.delete(DEPLOYMENTS, "web")
                await until(PODS, lambda: all("deletionTimestamp" in pod["metadata"] for pod in store.list(PODS)))
        finally:
            await tasks.close()

    asyncio.run(scenario())


def test_one_object_that_cannot_be_dealt_with_stops_no_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    impossible = deployment(1)
    impossible["metadata"]["name"] = "a" * 253  # leaves no room for its pods' names
    store.create(DEPLOYMENTS, impossible)
    store.create(DEPLOYMENTS, deployment(1))
    settle(store, deployments.reconcile)
    assert len(store.list(PODS)) == 1
    assert f"Deployment default/{'a' * 253} cannot be reconciled" in caplog.text
