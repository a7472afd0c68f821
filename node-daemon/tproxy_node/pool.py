"""Connections that an app has had since before it was intercepted: clients' pools, and whatever lives long.

The kernel steers new connections only. Of the others, by `--existing`:

idle    HTTP/1 connections are taken over when their client begins its next request (`tproxy.steer.hold`, `handover`).
        The client notices nothing, and the app sees a connection end on which nothing was under way. Downloads, event
        streams, WebSockets, HTTP/2 and everything that isn't HTTP never get to such a point and are left alone.
keep    all stay.
reset   all that there are at the beginning are reset.

What stays is counted, seldom enough not to keep the API server busy.
"""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tproxy.errors import TproxyError
from tproxy.http.boundary import begins_request, is_whole
from tproxy.netns.descriptors import Descriptor, find
from tproxy.netns.handle import Netns
from tproxy.steer.connections import Connection, ConnectionList
from tproxy.steer.handover import BusyError, between_requests, take_over
from tproxy.steer.hold import Held, Hold
from tproxy.tasks import Tasks
from tproxy_node.desired import Route, Routes, Staying
from tproxy_node.doors import Doors
from tproxy_node.own_sockets import OwnSockets

log = logging.getLogger(__name__)

LOOK_FIRST_SECONDS = 1.0
LOOK_LIMIT_SECONDS = 30.0
"""Looks come less often while nothing changes."""

PUBLISH_SECONDS = 2.0
"""The least time between two published counts, doubling as long as they keep changing, up to the longest."""

PUBLISH_LIMIT_SECONDS = 30.0
_BURST_SECONDS = 0.001
_BURST_LOOKS = 20
"""A longer request is taken when nothing more has come for so long, lest a packet arrive in the middle of it."""

MAX_WATCHED = 4096
"""Connections of one pod that are watched."""


class Owner(Protocol):
    """What a pool needs of its pod's relay."""

    routes: Routes

    @property
    def listeners(self) -> Sequence[socket.socket]:
        """What accepts new connections."""
        ...

    @property
    def hears_strays(self) -> bool:
        """Whether packets that belong to no connection come there, or to the app's own listeners."""
        ...

    def takes(self, route: Route) -> bool:
        """Whether the laptop can get one more connection now."""
        ...

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection like one that has just been accepted."""
        ...


@dataclass(slots=True)
class _Watched:
    port: int
    descriptor: Descriptor


class Pools:
    """What the pools of all pods share. `hold` is None where requests cannot be held back; `obstacle` says why."""

    def __init__(self, proc: Path, on_change: Callable[[], None]) -> None:
        self.proc = proc
        self.on_change = on_change
        self.results: Counter[str] = Counter()
        """Connections of apps by what became of them: `taken`, `busy` (left with the app for now), `lost`, `reset`."""
        self.hold: Hold | None = None
        self.obstacle = ""
        self.no_reset = ""
        self.by_cookie: dict[int, Pool] = {}
        self.own = OwnSockets()
        try:
            self.hold = Hold()
        except TproxyError as error:
            self.obstacle = error.message
            log.warning("connections of apps cannot be taken over: %s", error.message)
            return
        self.hold.on_held = self._held
        asyncio.get_running_loop().add_reader(self.hold.fileno(), self.hold.consume)

    def renew(self, seconds: float) -> None:
        """Hold requests back for so much longer; without it they pass."""
        if self.hold is not None:
            self.hold.renew(seconds)

    def _held(self, held: Held) -> None:
        pool = self.by_cookie.get(held.cookie)
        if pool is not None:
            pool.take(held)
        elif self.hold is not None:
            self.hold.forget(held.cookie)

    def close(self) -> None:
        """Hold nothing back any more."""
        self.own.close()
        if self.hold is not None:
            asyncio.get_running_loop().remove_reader(self.hold.fileno())
            self.hold.close()
            self.hold = None


class Pool:
    """The connections of one pod's app. `staying` is what stays by port, as last published."""

    def __init__(self, pools: Pools, netns: Netns, owner: Owner) -> None:
        """Raises OSError."""
        self.staying: Mapping[int, Staying] = {}
        self.looked = asyncio.Event()
        """Once it is known what stays, or nobody wants to know any more."""
        self._pools = pools
        self._netns = netns
        self._owner = owner
        self._connections = ConnectionList(netns)
        self._doors = None if owner.hears_strays else Doors(netns)
        self._watched: dict[int, _Watched] = {}
        self._unreachable: set[int] = set()  # cookies of connections that nobody in the pod holds, or that resist
        self._reset: set[int] = set()  # ports
        self._seen: Mapping[int, Staying] = {}
        self._due = asyncio.Event()
        self._tasks = Tasks("pool")
        self._closed = False

    def start(self) -> None:
        """Look, and go on looking; `looked` once that has been done. What goes wrong is logged."""
        self._tasks.start(self._follow(), "follow")

    def routes_changed(self) -> None:
        """Other ports are intercepted, or otherwise."""
        self._due.set()

    async def _follow(self) -> None:
        await self._look()
        self._publish()
        self.looked.set()
        loop = asyncio.get_running_loop()
        pause, hush, published = LOOK_FIRST_SECONDS, PUBLISH_SECONDS, loop.time()
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._due.wait()
                pause = LOOK_FIRST_SECONDS
            except TimeoutError:
                pass
            self._due.clear()
            before = self._seen
            await self._look()
            pause = LOOK_FIRST_SECONDS if self._seen != before else min(2 * pause, LOOK_LIMIT_SECONDS)
            if self._seen == self.staying:
                hush = PUBLISH_SECONDS
            elif loop.time() >= published + hush:
                published, hush = loop.time(), min(2 * hush, PUBLISH_LIMIT_SECONDS)
                self._publish()
            else:
                pause = min(pause, max(published + hush - loop.time(), 0.1))

    def _publish(self) -> None:
        if self._seen != self.staying:
            self.staying = self._seen
            self._pools.on_change()

    async def _look(self) -> None:
        try:
            await self._look_at(dict(self._owner.routes))
        except Exception as error:  # steering must not suffer
            expected = isinstance(error, OSError)
            log.warning(
                "cannot look at the app's connections: %s",
                error,
                extra={"rate_key": "pool"},
                exc_info=None if expected else error,
            )

    async def _look_at(self, routes: Mapping[int, Route]) -> None:
        apps = await self._apps(routes)
        for port, route in routes.items():
            if route.existing == "reset" and port not in self._reset:
                self._reset.add(port)
                self._pools.results["reset"] += self._reset_all(apps[port])
                apps[port] = (await self._apps((port,)))[port]
        self._reset &= routes.keys()
        await self._watch([one for port, route in routes.items() if _movable(route) for one in apps[port]])
        self._seen = {
            port: Staying(len(found), self._why(routes[port], found)) for port, found in apps.items() if found
        }

    async def _apps(self, ports: Collection[int]) -> dict[int, list[Connection]]:
        """The connections that the app has, by port: those that are not ours, nor lead to us."""
        if not any(self._connections.of(port) for port in ports):
            return {port: [] for port in ports}  # our own sockets may be many, and nobody need look for them
        own = self._pools.own
        ours = set(await own.look())
        listed = {port: self._connections.of(port) for port in ports}
        legs = [leg for port in ports for leg in self._connections.towards(port)]
        ours |= await own.look()
        legs = [leg for leg in legs if leg.inode in ours]
        return {port: [one for one in found if _apps(one, ours, legs)] for port, found in listed.items()}

    def _reset_all(self, connections: Collection[Connection]) -> int:
        try:
            return self._connections.reset(connections)
        except OSError as error:
            self._pools.no_reset = f"this node's kernel does not reset connections of others ({error.strerror})"
            log.warning("%s", self._pools.no_reset, extra={"rate_key": "reset"})
            return 0

    async def _watch(self, wanted: Collection[Connection]) -> None:
        """Watch exactly these."""
        cookies = {one.cookie for one in wanted}
        for cookie in self._watched.keys() - cookies:
            self._forget(cookie)
        self._unreachable &= cookies
        hold = self._pools.hold
        fresh = [one for one in wanted if one.cookie not in self._watched and one.cookie not in self._unreachable]
        fresh = fresh[: max(0, MAX_WATCHED - len(self._watched))]
        if hold is None or not fresh:
            return
        inodes = {one.inode for one in fresh}
        if self._doors is not None:
            inodes |= self._doors.look({one.port for one in wanted})
        found = await asyncio.get_running_loop().run_in_executor(None, find, self._pools.proc, self._netns.id, inodes)
        if self._closed:
            return
        if self._doors is not None:
            self._doors.found(found)
        for one in fresh:
            descriptor = found.get(one.inode)
            if descriptor is None or not self._attach(hold, one, descriptor):
                self._unreachable.add(one.cookie)

    def _attach(self, hold: Hold, one: Connection, descriptor: Descriptor) -> bool:
        try:
            with descriptor.borrow() as sock:
                self._watched[one.cookie] = _Watched(one.port, descriptor)
                self._pools.by_cookie[one.cookie] = self
                hold.attach(sock)
        except ProcessLookupError:
            self._forget(one.cookie)
            return True  # it has just ended, or another process has it: the next look will say
        except OSError as error:
            self._forget(one.cookie)
            log.info("cannot watch a connection: %s", error, extra={"rate_key": "watch"})
            return False
        return True

    def _why(self, route: Route, found: Collection[Connection]) -> str:
        if route.existing == "keep":
            return "kept there, as asked"
        if route.existing == "reset":
            return self._pools.no_reset or "made since the others were reset"
        if route.speaks:
            return f"the port speaks {route.speaks}, and only HTTP/1 can be taken over"
        if self._pools.hold is None:
            return self._pools.obstacle
        if any(one.cookie in self._watched for one in found):
            return "HTTP/1 comes over with its next request, anything else stays until it ends"
        return "no process of the pod holds them where the node daemon can reach it"

    def take(self, held: Held) -> None:
        """A request is held back: take its connection over, or let the request go on to the app."""
        hold, watched = self._pools.hold, self._watched.get(held.cookie)
        if hold is None or watched is None:
            return
        route = self._owner.routes.get(watched.port)
        if route is None or not _movable(route) or not begins_request(held.data) or not self._owner.takes(route):
            hold.let_go(held)
            return
        if is_whole(held.data):
            self._take(hold, held)
        else:
            self._wait(hold, held, len(held.data), _BURST_LOOKS)

    def _wait(self, hold: Hold, held: Held, size: int, looks: int) -> None:
        """Wait until the client has sent what it may without being answered."""
        hold.hold_on(held)
        asyncio.get_running_loop().call_later(_BURST_SECONDS, self._look_again, hold, held, size, looks)

    def _look_again(self, hold: Hold, held: Held, size: int, looks: int) -> None:
        if self._closed or self._pools.hold is not hold:
            return
        if len(held.data) > size and looks:
            self._wait(hold, held, len(held.data), looks - 1)
        elif held.cookie in self._watched:
            self._take(hold, held)

    def _take(self, hold: Hold, held: Held) -> None:
        watched = self._watched[held.cookie]
        try:
            hold.hold_on(held)
            with watched.descriptor.borrow() as app, contextlib.ExitStack() as stack:
                if not between_requests(app, held):
                    raise BusyError
                doors = self._owner.listeners if self._doors is None else self._doors.borrow(watched.port, stack)
                ours = take_over(app, held, self._netns, doors)
        except (BusyError, ProcessLookupError):
            self._pools.results["busy"] += 1
            hold.let_go(held)
            return
        except OSError as error:
            self._pools.results["lost"] += 1
            log.warning("cannot take a connection over: %s", error, extra={"rate_key": "take"})
            hold.let_go(held)
            return
        self._pools.results["taken"] += 1
        self._forget(held.cookie)
        self._owner.adopt(ours)
        self._due.set()

    def _forget(self, cookie: int) -> None:
        self._watched.pop(cookie, None)
        self._pools.by_cookie.pop(cookie, None)
        if self._pools.hold is not None:
            self._pools.hold.forget(cookie)

    def close(self) -> None:
        """Leave everything to the app, from this moment on. Idempotent."""
        self._closed = True
        self.looked.set()
        for cookie in list(self._watched):
            self._forget(cookie)
        self._tasks.cancel()
        self._connections.close()
        if self._doors is not None:
            self._doors.close()


def _movable(route: Route) -> bool:
    return route.existing == "idle" and not route.speaks


def _apps(one: Connection, ours: Collection[int], legs: Iterable[Connection]) -> bool:
    """Whether an app has accepted it, and not from us."""
    return bool(one.inode) and one.inode not in ours and not any(leg.faces(one) for leg in legs)
