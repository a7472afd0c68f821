"""Whom pods belong to."""

import asyncio

import pytest
from tproxy_node import owners as module
from tproxy_node.owners import Owners

from tests.unit.node.cluster import StoreCluster
from tproxy.kube.port import DEPLOYMENTS
from tproxy.model.pod import OwnerRef, Pod


def make_pod(owner_uid: str) -> Pod:
    owner = OwnerRef("apps/v1", "Deployment", "web", owner_uid, True)
    return Pod("shop", "web-1", "uid-1", owners=(owner,))


class Scene:
    """A Deployment that is itself owned by something of a custom kind."""

    def __init__(self) -> None:
        self.cluster = StoreCluster()
        self.changed = asyncio.Event()
        self.owners = Owners(self.cluster, self.changed.set)
        above = {"apiVersion": "argoproj.io/v1", "kind": "Rollout", "name": "front", "uid": "uid-front"}
        body = {"metadata": {"name": "web", "ownerReferences": [above]}, "spec": {}}
        created = self.cluster.store.create(DEPLOYMENTS, body, "shop")
        self.pod = make_pod(created["metadata"]["uid"])

    def chain(self) -> list[tuple[str, str]]:
        return list(self.owners.chains([self.pod])["uid-1"])


def test_direct_owners_at_once_the_others_when_read() -> None:
    async def scenario() -> None:
        scene = Scene()
        assert scene.chain() == [("Deployment", "web")]
        assert not scene.owners.known
        await asyncio.wait_for(scene.changed.wait(), 2)
        assert scene.chain() == [("Deployment", "web"), ("Rollout", "front")]
        assert scene.owners.known
        assert scene.owners.chains([]) == {}
        await scene.owners.close()

    asyncio.run(scenario())


def test_reading_is_repeated_until_the_api_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST_SECONDS", 0.01)

    async def scenario() -> None:
        scene = Scene()
        scene.cluster.away = True
        assert scene.chain() == [("Deployment", "web")]
        await asyncio.sleep(0)
        assert not scene.changed.is_set()
        scene.cluster.away = False
        await asyncio.wait_for(scene.changed.wait(), 2)
        assert len(scene.chain()) == 2
        await scene.owners.close()

    asyncio.run(scenario())


def test_an_adopted_pod_is_read_again() -> None:
    async def scenario() -> None:
        scene = Scene()
        scene.chain()
        await asyncio.wait_for(scene.changed.wait(), 2)
        adopted = Pod("shop", "web-1", "uid-1", owners=(OwnerRef("v1", "ConfigMap", "odd", "uid-odd"),))
        assert list(scene.owners.chains([adopted])["uid-1"]) == [("ConfigMap", "odd")]
        await scene.owners.close()

    asyncio.run(scenario())
