"""Who may open a stream, and what becomes of streams."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from tproxy_node import sessions as module
from tproxy_node.opening import Identity
from tproxy_node.sessions import Sessions

from tests.unit.node.cluster import StoreCluster
from tests.unit.node.objects import NOON, session, token
from tests.unit.node.streams import tunnel
from tproxy.errors import DeniedError
from tproxy.kube.port import SESSIONS
from tproxy.model.flow import Address, FlowKind, OpenRequest, ResetReason
from tproxy.model.session import Session
from tproxy.tunnel.hello import Hello


class Clock:
    """Stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """Sessions over a store, and how often they reported a change."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.cluster = StoreCluster()
        self.changes = 0
        self.sessions = Sessions(self.cluster, self._changed, clock)

    def _changed(self) -> None:
        self.changes += 1

    def create(self, one: Session) -> Session:
        """Store a Session; returns it with the UID it got."""
        return Session.from_object(self.cluster.store.create(SESSIONS, one.to_object()))


def play(scenario: Callable[[Scene], Awaitable[None]], clock: Callable[[], float] = time.monotonic) -> None:
    async def run() -> None:
        scene = Scene(clock)
        try:
            await scenario(scene)
        finally:
            await scene.sessions.close()

    asyncio.run(run())


def hello(name: str = "alice", secret: bytes | None = None) -> Hello:
    return Hello("shop", name, token(name) if secret is None else secret)


def test_the_token_opens_the_door() -> None:
    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        assert await scene.sessions.authenticate(hello()) == Identity("uid-alice", "shop/alice", "alice", "shop")

    play(scenario)


@pytest.mark.parametrize(
    "wrong", [hello(secret=token("mallory")), hello("bob"), Hello("bank", "alice", token("alice"))], ids=str
)
def test_everything_else_is_refused_alike(wrong: Hello, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ARRIVAL_SECONDS", 0.02)

    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        with pytest.raises(DeniedError, match=r"^unknown session, or not its token$"):
            await scene.sessions.authenticate(wrong)

    play(scenario)


def test_a_session_may_arrive_just_after_its_laptop() -> None:
    async def scenario(scene: Scene) -> None:
        waiting = asyncio.gather(scene.sessions.authenticate(hello()))
        await asyncio.sleep(0)
        scene.sessions.applied(session("bob"))
        await asyncio.sleep(0)
        assert not waiting.done()
        scene.sessions.applied(session())
        assert [identity.uid for identity in await waiting] == ["uid-alice"]

    play(scenario)


def test_streams_make_a_session_live_until_the_last_one_ends() -> None:
    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        identity = await scene.sessions.authenticate(hello())
        first, _ = tunnel()
        second, laptop = tunnel()
        scene.sessions.add(identity, first)
        scene.sessions.add(identity, second)
        assert scene.sessions.live() == {"uid-alice"}
        first.close()
        assert scene.sessions.live() == {"uid-alice"}
        changes = scene.changes
        laptop.close()
        await second.wait_closed()
        assert scene.sessions.live() == frozenset()
        assert scene.sessions.pick("uid-alice") is None
        await asyncio.sleep(0)
        assert scene.changes > changes

    play(scenario)


def test_the_stream_with_fewest_connections_is_picked() -> None:
    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        identity = await scene.sessions.authenticate(hello())
        streams = [tunnel()[0] for _ in range(2)]
        for stream in streams:
            scene.sessions.add(identity, stream)
        assert scene.sessions.pick("uid-alice") is streams[1], "the newer of equals"
        streams[1].open(OpenRequest(FlowKind.INBOUND, Address("10.244.1.5", 80)), Silent())
        assert scene.sessions.pick("uid-alice") is streams[0]
        assert scene.sessions.pick("uid-bob") is None

    play(scenario)


def test_a_stream_that_fell_silent_is_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not found dead yet, but its laptop has come again."""

    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        identity = await scene.sessions.authenticate(hello())
        silent = tunnel()[0]
        scene.sessions.add(identity, silent)
        monkeypatch.setattr(module, "SUSPICIOUS_SECONDS", 0.05)
        await asyncio.sleep(0.1)  # the time itself is what is tested
        fresh = tunnel()[0]
        scene.sessions.add(identity, fresh)
        fresh.open(OpenRequest(FlowKind.INBOUND, Address("10.244.1.5", 80)), Silent())
        assert scene.sessions.pick("uid-alice") is fresh
        fresh.close()
        assert scene.sessions.pick("uid-alice") is silent

    play(scenario)


class Silent:
    """A sink that waits for a reset."""

    def __init__(self) -> None:
        self.reset: asyncio.Future[ResetReason] = asyncio.get_running_loop().create_future()

    def conn_opened(self) -> None: ...
    def conn_data(self, data: bytes) -> None: ...
    def conn_eof(self) -> None: ...
    def conn_pause(self) -> None: ...
    def conn_resume(self) -> None: ...
    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        self.reset.set_result(reason)


def test_what_no_part_serves_is_refused() -> None:
    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        node, laptop = tunnel()
        scene.sessions.add(await scene.sessions.authenticate(hello()), node)
        sink = Silent()
        laptop.open(OpenRequest(FlowKind.DIAL, Address("169.254.169.254", 80)), sink)
        async with asyncio.timeout(2):
            assert await sink.reset is ResetReason.DENIED

    play(scenario)


def test_a_deleted_session_loses_its_streams() -> None:
    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        identity = await scene.sessions.authenticate(hello())
        stream, _ = tunnel()
        scene.sessions.add(identity, stream)
        scene.sessions.removed(session())
        assert not stream.alive
        late, _ = tunnel()
        scene.sessions.add(identity, late)
        assert not late.alive

    play(scenario)


def test_the_same_name_with_another_uid_is_another_session() -> None:
    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        stream, _ = tunnel()
        scene.sessions.add(await scene.sessions.authenticate(hello()), stream)
        scene.sessions.applied(session(uid="uid-second"))
        assert not stream.alive
        assert [one.uid for one in scene.sessions.all()] == ["uid-second"]
        scene.sessions.removed(session())  # the old one's removal, arriving late
        assert [one.uid for one in scene.sessions.all()] == ["uid-second"]

    play(scenario)


def test_too_many_streams_replace_the_oldest() -> None:
    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(session())
        identity = await scene.sessions.authenticate(hello())
        streams = [tunnel()[0] for _ in range(module.MAX_STREAMS + 1)]
        for stream in streams:
            scene.sessions.add(identity, stream)
        assert [stream.alive for stream in streams] == [False] + [True] * module.MAX_STREAMS

    play(scenario)


def test_expired_sessions_are_deleted() -> None:
    clock = Clock()

    async def scenario(scene: Scene) -> None:
        kept, left = scene.create(session()), scene.create(session("bob"))
        for one in (kept, left):
            scene.sessions.applied(one)
        clock.now += 3000
        scene.sessions.applied(Session.from_object(renewed(scene, kept)))
        clock.now += 1000
        await scene.sessions.delete_expired()
        assert [one.name for one in scene.sessions.all()] == ["alice"]
        assert [obj["metadata"]["name"] for obj in scene.cluster.store.list(SESSIONS)] == ["alice"]

    play(scenario, clock)


def renewed(scene: Scene, one: Session) -> dict[str, object]:
    return scene.cluster.store.patch(
        SESSIONS, one.name, dict(Session.renew_patch(NOON + timedelta(hours=1))), one.namespace
    )


def test_a_renewal_this_node_has_not_seen_counts() -> None:
    """Cut off from the watch, a node must not delete what its owner kept alive."""
    clock = Clock()

    async def scenario(scene: Scene) -> None:
        one = scene.create(session())
        scene.sessions.applied(one)
        renewed(scene, one)
        clock.now += 4000
        await scene.sessions.delete_expired()
        assert scene.cluster.store.list(SESSIONS)
        await scene.sessions.delete_expired()
        assert scene.cluster.store.list(SESSIONS)

    play(scenario, clock)


def test_expiry_never_deletes_a_namesake() -> None:
    clock = Clock()

    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(scene.create(session()))
        scene.cluster.store.delete(SESSIONS, "alice", "shop")
        second = scene.create(session())
        clock.now += 4000
        await scene.sessions.delete_expired()
        assert [obj["metadata"]["uid"] for obj in scene.cluster.store.list(SESSIONS)] == [second.uid]

    play(scenario, clock)


def test_expiry_waits_for_the_api_server() -> None:
    clock = Clock()

    async def scenario(scene: Scene) -> None:
        scene.sessions.applied(scene.create(session()))
        clock.now += 4000
        scene.cluster.away = True
        await scene.sessions.delete_expired()
        assert scene.sessions.all()
        scene.cluster.away = False
        await scene.sessions.delete_expired()
        assert not scene.sessions.all()

    play(scenario, clock)
