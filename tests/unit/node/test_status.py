"""What the node writes into intercepts, and what it leaves alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tproxy_node.status import StatusWriter

from tests.unit.node.cluster import StoreCluster
from tests.unit.node.objects import intercept
from tproxy.kube.port import INTERCEPTS
from tproxy.model.intercept import Intercept, NodeState, NodeStatus

READY = NodeStatus(NodeState.READY)
WAITING = NodeStatus(NodeState.PENDING, "NoTunnel", "no tunnel from the laptop to this node")


class Scene:
    """A writer for node n1 and the store it writes to."""

    def __init__(self) -> None:
        self.cluster = StoreCluster()
        self.writer = StatusWriter(self.cluster, "n1")
        self.intercept = Intercept.from_object(self.cluster.store.create(INTERCEPTS, intercept().to_object()))

    @property
    def nodes(self) -> dict[str, Any]:
        status = self.cluster.store.get(INTERCEPTS, "web-1a2b", "shop").get("status", {})
        return {node: entry["reason"] or entry["state"] for node, entry in status.get("nodes", {}).items()}

    def see(self) -> None:
        """What the watch would deliver now."""
        self.writer.observe([Intercept.from_object(obj) for obj in self.cluster.store.list(INTERCEPTS)])

    async def want(self, status: NodeStatus | None) -> None:
        self.writer.want({} if status is None else {self.intercept.uid: status})
        await self.writer.settle()


def play(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene()
        try:
            await scenario(scene)
        finally:
            await scene.writer.close()

    asyncio.run(run())


def test_only_changes_are_written_and_only_the_own_entry() -> None:
    async def scenario(scene: Scene) -> None:
        other = Intercept.status_patch("n2", READY)
        scene.cluster.store.patch(INTERCEPTS, "web-1a2b", other, "shop", "status")
        scene.see()
        await scene.want(WAITING)
        await scene.want(WAITING)
        scene.see()
        await scene.want(WAITING)
        assert len(scene.cluster.patches) == 1
        await scene.want(READY)
        assert scene.nodes == {"n1": "Ready", "n2": "Ready"}
        entry = scene.cluster.store.get(INTERCEPTS, "web-1a2b", "shop")["status"]["nodes"]["n1"]
        assert entry["message"] == "", "nothing of the entry before is left"

    play(scenario)


def test_an_entry_is_taken_back() -> None:
    async def scenario(scene: Scene) -> None:
        scene.see()
        await scene.want(READY)
        await scene.want(None)
        assert scene.nodes == {}

    play(scenario)


def test_what_an_earlier_daemon_left_is_corrected() -> None:
    async def scenario(scene: Scene) -> None:
        scene.cluster.store.patch(INTERCEPTS, "web-1a2b", Intercept.status_patch("n1", READY), "shop", "status")
        scene.see()
        await scene.want(None)
        assert scene.nodes == {}

    play(scenario)


def test_changes_in_quick_succession_are_one_write() -> None:
    async def scenario(scene: Scene) -> None:
        scene.see()
        await scene.want(WAITING)
        scene.writer.want({scene.intercept.uid: READY})
        await asyncio.sleep(0)
        for status in (WAITING, READY, WAITING, READY):
            scene.writer.want({scene.intercept.uid: status})
        await scene.writer.settle()
        assert len(scene.cluster.patches) == 2
        assert scene.nodes == {"n1": "Ready"}

    play(scenario)


def test_a_failed_write_is_repeated_with_the_latest() -> None:
    async def scenario(scene: Scene) -> None:
        scene.see()
        scene.cluster.away = True
        scene.writer.want({scene.intercept.uid: WAITING})
        await asyncio.sleep(0.01)
        scene.writer.want({scene.intercept.uid: READY})
        scene.cluster.away = False
        async with asyncio.timeout(3):
            await scene.writer.settle()
        assert scene.nodes == {"n1": "Ready"}
        assert len(scene.cluster.patches) == 1

    play(scenario)


def test_a_namesake_is_not_written_to() -> None:
    async def scenario(scene: Scene) -> None:
        scene.see()
        scene.cluster.store.delete(INTERCEPTS, "web-1a2b", "shop")
        scene.cluster.store.create(INTERCEPTS, intercept().to_object())
        await scene.want(READY)
        assert scene.nodes == {}

    play(scenario)


def test_a_deleted_intercept_is_forgotten() -> None:
    async def scenario(scene: Scene) -> None:
        scene.see()
        await scene.want(READY)
        scene.cluster.store.delete(INTERCEPTS, "web-1a2b", "shop")
        await scene.want(WAITING)
        scene.see()
        await scene.want(WAITING)
        assert len(scene.cluster.patches) == 1

    play(scenario)


def test_nothing_is_taken_back_on_half_knowledge() -> None:
    """Just started, a daemon does not know yet which pods belong to which workload."""

    async def scenario(scene: Scene) -> None:
        scene.cluster.store.patch(INTERCEPTS, "web-1a2b", Intercept.status_patch("n1", READY), "shop", "status")
        scene.see()
        scene.writer.want({}, complete=False)
        await scene.writer.settle()
        assert scene.nodes == {"n1": "Ready"}
        scene.cluster.store.patch(INTERCEPTS, "web-1a2b", Intercept.leave_patch(), "shop")
        scene.see()
        scene.writer.want({}, complete=False)
        await scene.writer.settle()
        assert scene.nodes == {}

    play(scenario)
