"""One Session of this laptop: its objects, its tunnels, and keeping all of it alive.

    begin / resume ──▶ open ──▶ end      objects deleted: `leave` of the last intercept, `quit`
                        │  └──▶ suspend  objects stay: the daemon is told to stop, the next one resumes
                        └─────▶ restore  objects made anew: they expired while the laptop slept

What somebody else deletes in the cluster stays deleted: the intercept is handed to `on_lost`, and `status` shows it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tproxy.errors import TproxyError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import INTERCEPTS, Applied, Cluster, Object, Removed
from tproxy.model.intercept import Intercept, InterceptPort
from tproxy.tasks import Tasks
from tproxy_cli.daemon.clock import seconds_since_boot
from tproxy_cli.daemon.figures import Figures
from tproxy_cli.daemon.held import Held, LocalApp
from tproxy_cli.daemon.inbound import Connect, Inbound, connect_laptop
from tproxy_cli.daemon.objects import SessionObjects, parse_intercept
from tproxy_cli.daemon.restoring import make_anew
from tproxy_cli.daemon.state import SavedSession
from tproxy_cli.daemon.tunnels import Backoff, Tunnels

log = logging.getLogger(__name__)

DRAIN_LOOK_SECONDS = 0.1

DETACH_SECONDS = 2.0
"""How long `leave` waits for the nodes to say that they no longer steer."""

END_SECONDS = 5.0
"""How long the cluster may take to delete what we leave behind."""

UPKEEP_SECONDS = 5.0
RENEW_RETRY_SECONDS = 30.0
RESUME_RETRY_SECONDS = 60.0
CREATING_SECONDS = 2.0
"""How long a connection waits for the answer to the creation of the intercept that it belongs to."""

OnLost = Callable[[Held, str], None]
"""Told of an intercept that others deleted, and how."""


class LaptopSession:
    """`tunnels` is to be set before anything else: to serve connections they need the session, and it needs them."""

    tunnels: Tunnels

    def __init__(
        self,
        objects: SessionObjects,
        on_save: Callable[[], None],
        on_lost: OnLost,
        connect: Connect = connect_laptop,
    ) -> None:
        self.held = {each.name: Held(each) for each in objects.saved.intercepts}
        self.changed = asyncio.Event()
        """Set and replaced with each change of `held`, of what the cluster says of it, or of a tunnel."""
        self.inbound = Inbound(self.app_of, connect)
        self.figures = Figures()
        self.ended = False
        self.resuming = False
        self._objects = objects
        self._on_save = on_save
        self._on_lost = on_lost
        self._open = False
        self._creating = 0
        self._users: dict[object, frozenset[str]] = {}  # who dials through it, and the nodes of their pods
        self._draining: dict[str, Held] = {}
        self._lock = asyncio.Lock()  # held while the Session object is created, looked for, or given up
        self._upkeep_now = asyncio.Event()
        self._tasks = Tasks("session")
        self._watcher: asyncio.Task[None] | None = None

    @property
    def saved(self) -> SavedSession:
        """What has to be remembered."""
        return replace(self._objects.saved, intercepts=tuple(held.saved for held in self.held.values()))

    @property
    def name(self) -> str:
        """The Session object's name."""
        return self._objects.saved.name

    def notify(self) -> None:
        """Something changed."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def wait_changed(self, changed: asyncio.Event, seconds: float) -> bool:
        """Wait for `changed` (taken before looking) or until the time is over; whether something changed."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    # Beginning

    def prepare(self) -> None:
        """Start what needs no Session object yet, so that it is ready when the object is."""
        if self._watcher is None:
            self._watcher = self._tasks.start(self._watch(), "watch")

    async def begin(self) -> None:
        """Create the Session object unless that is done. Raises TproxyError."""
        async with self._lock:
            if self.ended:
                raise TproxyError("the session has been given up meanwhile", "run the command again")
            if not self._open:
                await self._objects.create_session()
                self._start()

    def adopt(self, held: Held) -> None:
        """From now on the session is not empty, so nothing ends it."""
        self.held[held.name] = held
        self._on_save()

    def keep_for(self, user: object, nodes: Iterable[str]) -> None:
        """From now on `user` needs tunnels to `nodes`, so nothing ends the session until `release`."""
        self._users[user] = frozenset(nodes)
        self.tunnels.want(nodes)
        self._on_save()

    async def release(self, user: object) -> None:
        """`user` needs it no more. Idempotent."""
        if self._users.pop(user, None) is not None:
            await self.end_if_empty()

    async def create(self, held: Held) -> None:
        """Create the object of an adopted intercept. Raises TproxyError."""
        self._creating += 1
        try:
            await self._objects.create_intercept(held)
        finally:
            self._creating -= 1
            self._on_save()
            self.notify()

    async def resume(self) -> None:
        """Take up what an earlier daemon left, as far as it still exists; repeats until the cluster answers."""
        backoff = Backoff(longest=RESUME_RETRY_SECONDS)
        self.resuming = True
        while True:
            if await self._try_resume():
                break
            await asyncio.sleep(backoff.next())
        self.resuming = False
        self._on_save()
        self.notify()
        await self.end_if_empty()

    async def _try_resume(self) -> bool:
        async with self._lock:
            try:
                session = await self._objects.find_session()
                found = await self._objects.find_intercepts() if session is not None else {}
            except TproxyError as error:
                log.warning("cannot resume yet: %s", error.message, extra={"session": self.name})
                return False
            for held in list(self.held.values()):
                intercept = found.get(held.name)
                if intercept is None and held.saved.uid:
                    self._lose(held, "it no longer existed when the daemon started")
                elif intercept is None:
                    del self.held[held.name]
                elif intercept.deleting:
                    self._tasks.start(self.discard(held), "finish leaving")
                else:
                    held.saved = replace(held.saved, uid=intercept.uid)
                    self._observe(held, intercept)
            if session is not None:
                self._start()
                log.info("session resumed", extra={"session": self.name, "intercepts": len(self.held)})
            return True

    # Ending

    async def discard(self, held: Held) -> None:
        """Undo `adopt` and `create` at whatever point they are. What cannot be deleted now is logged."""
        held.leaving = True
        try:
            await self._objects.delete_intercept(held)
        except TproxyError as error:
            log.warning("cannot delete an intercept: %s", error.message, extra={"intercept": held.name})
        self.held.pop(held.name, None)
        self._on_save()
        await self.end_if_empty()

    async def leave(self, held: Held) -> bool:
        """Give the traffic back and delete the object; whether the nodes have said that they let go.

        Connections under way may go on for a while. Raises TproxyError if the object cannot be deleted.
        """
        held.leaving = True
        try:
            detached = await self._wait_detached(held)
            await self._objects.delete_intercept(held)
        except BaseException:
            held.leaving = False
            raise
        self._draining[held.name] = held
        self.held.pop(held.name, None)
        self._on_save()
        self.notify()
        if self.tunnels.connections:
            self._tasks.start(self._drain(held), "drain")
        else:
            del self._draining[held.name]
            await self.end_if_empty()
        return detached

    async def _wait_detached(self, held: Held) -> bool:
        """Mark the object as being left and wait until no node we are connected to has an entry in its status."""
        try:
            await self._objects.mark_leaving(held)
        except NotFoundError:
            return True
        deadline = time.monotonic() + DETACH_SECONDS
        while True:
            changed = self.changed
            connected = {view.node for view in self.tunnels.views() if view.state == "connected"}
            if held.observed is not None and not connected.intersection(held.observed.nodes):
                return True
            if not await self.wait_changed(changed, deadline - time.monotonic()):
                return False

    async def _drain(self, held: Held) -> None:
        deadline = time.monotonic() + held.saved.drain_seconds
        while self.tunnels.connections and time.monotonic() < deadline:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(DRAIN_LOOK_SECONDS)
        self._draining.pop(held.name, None)
        await self.end_if_empty()

    async def end_if_empty(self) -> None:
        """Delete the Session object and close everything, unless it is needed. Never raises TproxyError."""
        async with self._lock:
            if self.held or self._draining or self._users or self.ended:
                return
            self.ended = True
        await self._end()

    async def end_now(self) -> int:
        """Leave everything at once; how many intercepts there were. What cannot be deleted expires by itself."""
        left = list(self.held.values())
        self.ended = True
        self.held, self._draining, self._users = {}, {}, {}
        await self._tasks.close()
        await self._end(left)
        return len(left)

    async def _end(self, left: Sequence[Held] = ()) -> None:
        self._on_save()
        try:
            async with asyncio.timeout(END_SECONDS), self._lock:
                # Deleting the Session would do, but in its own time.
                await asyncio.gather(*(self._objects.delete_intercept(held) for held in left))
                await self._objects.delete_session()
        except (TproxyError, TimeoutError) as error:
            log.warning("cannot delete a session, it will expire: %s", error, extra={"session": self.name})
        else:
            log.info("session ended", extra={"session": self.name})
        await self.suspend()

    async def suspend(self) -> None:
        """Close tunnels in an orderly way and stop looking; the objects stay as they are."""
        await self.tunnels.close()
        await self.inbound.close()
        await self._tasks.close()
        self.notify()

    # While it is open

    def _start(self) -> None:
        self._open = True
        self.prepare()
        self._tasks.start(self._upkeep(), "upkeep")

    def wake(self) -> None:
        """The laptop has slept."""
        self.tunnels.wake()
        self._upkeep_now.set()

    def use(self, cluster: Cluster) -> None:
        """The way into the cluster has changed: other credentials, another address."""
        self._objects.cluster = cluster
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
            self.prepare()

    async def app_of(self, uid: str, port: InterceptPort) -> LocalApp | None:
        """Where what comes to a pod's port goes, of an intercept; None if it is none of ours."""
        deadline = time.monotonic() + CREATING_SECONDS
        while True:
            changed = self.changed
            for held in (*self.held.values(), *self._draining.values()):
                if held.saved.uid == uid != "":
                    return held.local_app(port)
            # A node can hear of a new intercept from its watch before we hear of it as the answer to its creation.
            if not self._creating or not await self.wait_changed(changed, deadline - time.monotonic()):
                return None

    async def _watch(self) -> None:
        seen: set[str] = set()
        async for event in self._objects.cluster.watch(INTERCEPTS, self._objects.saved.namespace):
            if isinstance(event, Applied):
                seen.add(event.object["metadata"]["uid"])
                self._applied(event.object)
            elif isinstance(event, Removed):
                seen.discard(event.object["metadata"]["uid"])
                self._removed(event.object)
            elif any(held.saved.uid and held.saved.uid not in seen for held in self.held.values()):
                self._tasks.start(self.check(), "check")

    def _applied(self, each: Object) -> None:
        intercept = parse_intercept(each)
        if intercept is None or intercept.session_uid != self._objects.saved.uid:
            return
        held = self.held.get(intercept.name)
        # Without a UID the answer to its creation is still on its way.
        if held is not None and held.saved.uid in ("", intercept.uid):
            self._observe(held, intercept)

    def _observe(self, held: Held, intercept: Intercept) -> None:
        held.observed = intercept
        self.tunnels.want(intercept.nodes)
        self.notify()

    def _removed(self, each: Object) -> None:
        uid = each.get("metadata", {}).get("uid")
        if any(held.saved.uid == uid and not held.leaving for held in self.held.values()):
            self._tasks.start(self.check(), "check")

    async def check(self) -> None:
        """Something of ours seems to be gone: find out what, and whether it was given up for lack of renewal."""
        async with self._lock:
            if self.ended:
                return
            try:
                session = await self._objects.find_session()
                found = await self._objects.find_intercepts() if session is not None else {}
            except TproxyError as error:
                log.warning("cannot look for missing objects: %s", error.message, extra={"session": self.name})
                return
            if session is None and self._objects.expired:
                await make_anew(self._objects, self.held.values(), self.create)
                self.tunnels.wake()
            else:
                why = "the Session was deleted in the cluster" if session is None else "it was deleted in the cluster"
                if session is None:
                    self._users.clear()
                for held in list(self.held.values()):
                    if held.saved.uid and held.name not in found and not held.leaving:
                        self._lose(held, why)
        self._on_save()
        self.notify()
        await self.end_if_empty()

    def _lose(self, held: Held, why: str) -> None:
        log.warning("intercept lost: %s", why, extra={"intercept": held.name})
        self.held.pop(held.name, None)
        self._on_lost(held, why)

    async def _upkeep(self) -> None:
        """Renew the Session in time that includes sleep; drop tunnels that are no longer needed."""
        retry_at = 0.0
        while not self.ended:
            if self._objects.renewal_due and seconds_since_boot() >= retry_at:
                retry_at = seconds_since_boot() + RENEW_RETRY_SECONDS
                await self._renew()
            for held in self.held.values():
                if held.observed is not None:
                    self.tunnels.want(held.observed.nodes)
            for nodes in self._users.values():
                self.tunnels.want(nodes)
            await self.tunnels.drop_unwanted()
            self._upkeep_now.clear()
            if await self.wait_changed(self._upkeep_now, UPKEEP_SECONDS):
                retry_at = 0.0

    async def _renew(self) -> None:
        try:
            await self._objects.renew_session()
        except NotFoundError:
            await self.check()
        except TproxyError as error:
            log.warning("cannot renew the session: %s", error.message, extra={"session": self.name})
        else:
            self._on_save()
