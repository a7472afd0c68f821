"""The node's picture of the cluster."""

import asyncio
from collections.abc import Awaitable, Callable

from tproxy_node.mirror import Mirror

from tests.unit.node.cluster import StoreCluster
from tests.unit.node.objects import intercept, session
from tproxy.kube.port import INTERCEPTS, PODS, SERVICES, SESSIONS
from tproxy.model.session import Session


class Scene:
    """A mirror for node n1."""

    def __init__(self) -> None:
        self.cluster = StoreCluster()
        self.sessions: list[str] = []
        self._changed = asyncio.Event()
        self.mirror = Mirror("n1", self._changed.set, self._came, self._went)

    def _came(self, one: Session) -> None:
        self.sessions.append(f"+{one.name}")
        self._changed.set()

    def _went(self, one: Session) -> None:
        self.sessions.append(f"-{one.name}")
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, looking after every change."""
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def create_pod(self, name: str, node: str) -> None:
        spec = {"nodeName": node, "containers": [{"name": "app", "image": "none"}]}
        self.cluster.store.create(PODS, {"metadata": {"name": name}, "spec": spec}, "shop")


def play(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene()
        try:
            await scenario(scene)
        finally:
            await scene.mirror.close()

    asyncio.run(run())


def test_everything_is_missing_until_listed() -> None:
    async def scenario(scene: Scene) -> None:
        assert scene.mirror.missing == "sessions, intercepts, pods, services"
        scene.mirror.start(scene.cluster)
        await scene.until(lambda: not scene.mirror.missing)

    play(scenario)


def test_only_the_nodes_own_pods() -> None:
    async def scenario(scene: Scene) -> None:
        scene.create_pod("web-1", "n1")
        scene.create_pod("web-2", "n2")
        scene.mirror.start(scene.cluster)
        await scene.until(lambda: not scene.mirror.missing)
        assert [pod.name for pod in scene.mirror.pods] == ["web-1"]
        scene.create_pod("web-3", "n1")
        await scene.until(lambda: len(scene.mirror.pods) == 2)
        scene.cluster.store.delete(PODS, "web-1", "shop", grace_seconds=0)
        await scene.until(lambda: [pod.name for pod in scene.mirror.pods] == ["web-3"])

    play(scenario)


def test_objects_of_every_namespace_come_and_go() -> None:
    async def scenario(scene: Scene) -> None:
        store = scene.cluster.store
        scene.mirror.start(scene.cluster)
        store.create(SESSIONS, session().to_object())
        store.create(INTERCEPTS, intercept().to_object())
        store.create(SERVICES, {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}}}, "default")
        await scene.until(lambda: bool(scene.mirror.intercepts and scene.mirror.services and scene.sessions))
        store.delete(INTERCEPTS, "web-1a2b", "shop")
        store.delete(SESSIONS, "alice", "shop")
        await scene.until(lambda: not scene.mirror.intercepts and scene.sessions == ["+alice", "-alice"])

    play(scenario)


def test_what_cannot_be_understood_counts_as_absent() -> None:
    """A newer tproxy's condition on requests, ignored, would match more than was asked."""

    async def scenario(scene: Scene) -> None:
        store = scene.cluster.store
        store.create(INTERCEPTS, intercept().to_object())
        scene.mirror.start(scene.cluster)
        await scene.until(lambda: bool(scene.mirror.intercepts))
        store.patch(INTERCEPTS, "web-1a2b", {"spec": {"match": {"cookies": "all"}}}, "shop")
        await scene.until(lambda: not scene.mirror.intercepts)

    play(scenario)
