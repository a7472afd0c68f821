"""Makes the pods of the node look as they should: again and again, after every change and on a timer.

    mirror + sessions ──► desire ──► plan ──► apply, step by step ──► status

A step that fails becomes the pod's reason in the status and is repeated with back-off; it holds nothing else up.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tproxy.errors import TproxyError
from tproxy.model.intercept import InterceptPort, NodeState, NodeStatus, PodStatus
from tproxy.model.pod import Pod
from tproxy.netns.refusal import Refusal
from tproxy.steer.port import Attachment, Steering
from tproxy.tasks import Tasks
from tproxy_node.desired import Desired, Failure, PodRoutes, View, desire, of_protocol
from tproxy_node.mirror import Mirror
from tproxy_node.owners import Owners
from tproxy_node.places import MOVED, Place, Places
from tproxy_node.plan import Attach, Attached, Detach, Op, PodRef, SetRoutes, plan
from tproxy_node.pool import Pool, Pools
from tproxy_node.relay import PodRelay, Relay
from tproxy_node.sessions import Sessions
from tproxy_node.status import StatusWriter

log = logging.getLogger(__name__)

VERIFY_SECONDS = 3.0
SEARCH_SECONDS = 30.0
"""Verifying looks at addresses only; after this time, or when a pod has changed, also at processes."""

COALESCE_SECONDS = 0.01
RETRY_FIRST_SECONDS = 0.25
RETRY_LIMIT_SECONDS = 15.0

OPS = ("attach", "detach", "route")


class NotFoundHereError(Exception):
    """There is no network namespace to steer in, for `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(slots=True)
class Steered:
    """A pod that is steered, since `since` (monotonic seconds)."""

    relay: PodRelay
    place: Place
    seen: Pod  # as it was when last looked for
    attachment: Attachment
    since: float = field(default_factory=time.monotonic)
    broken: str = ""
    outdated: bool = False  # what is broken is the attachment alone: its connections go on

    @property
    def routes(self) -> PodRoutes:
        tcp = {InterceptPort(port): route for port, route in self.relay.routes.items()}
        return tcp | {InterceptPort(port, "UDP"): route for port, route in self.relay.udp.routes.items()}

    def set_routes(self, routes: PodRoutes) -> None:
        self.relay.set_routes(of_protocol(routes, "TCP"))
        self.relay.udp.set_routes(of_protocol(routes, "UDP"))


@dataclass(slots=True)
class _Failed:
    failure: Failure
    attempts: int
    due: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What the reconciler works with."""

    mirror: Mirror
    sessions: Sessions
    owners: Owners
    steering: Steering
    places: Places
    relay: Relay
    pools: Pools
    statuses: StatusWriter


class Reconciler:
    """Call `poke` after any change."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._changed = asyncio.Event()
        self._steered: dict[str, Steered] = {}
        self._failed: dict[str, _Failed] = {}
        self._tasks = Tasks("reconcile")
        self.rounds = 0
        self.errors: Counter[str] = Counter(dict.fromkeys(OPS, 0))

    @property
    def steered(self) -> int:
        """How many pods are steered."""
        return len(self._steered)

    @property
    def pods(self) -> Mapping[str, Steered]:
        """The pods that are steered, by UID."""
        return dict(self._steered)

    @property
    def failures(self) -> Mapping[str, Failure]:
        """Why pods that should be steered could not be at the last attempt, by UID."""
        return {uid: failed.failure for uid, failed in self._failed.items()}

    def wanted(self) -> Desired:
        """What the objects ask for now."""
        return self._desire()

    def poke(self) -> None:
        """Something has changed."""
        self._changed.set()

    def start(self) -> None:
        """Begin."""
        self._tasks.start(self._run(), "loop")
        self._tasks.start(self._verify(), "verify")

    async def _run(self) -> None:
        while True:
            await self._wait()
            self.rounds += 1
            if self._parts.mirror.missing:
                continue  # a half-known cluster looks as if intercepts had been left
            try:
                await self._reconcile()
            except Exception:  # a defect in one round must not end steering for good
                log.exception("reconciling failed", extra={"rate_key": "reconcile"})
                await asyncio.sleep(RETRY_FIRST_SECONDS)

    async def _wait(self) -> None:
        now = asyncio.get_running_loop().time()
        due = min((failed.due for failed in self._failed.values()), default=now + VERIFY_SECONDS)
        try:
            async with asyncio.timeout(max(due - now, COALESCE_SECONDS)):
                await self._changed.wait()
                await asyncio.sleep(COALESCE_SECONDS)  # more of the same comes right behind
        except TimeoutError:
            pass
        self._changed.clear()

    async def _reconcile(self) -> None:
        pods = {pod.uid: pod for pod in self._parts.mirror.pods if pod.phase not in ("Succeeded", "Failed")}
        desired = self._desire()
        # Nobody waits for the others any more, and no round shall be due on their account.
        for uid in self._failed.keys() - {uid for uid in desired.routes if uid in pods}:
            del self._failed[uid]
        ops = self._plan(pods.values(), desired)
        for op in ops:
            if not isinstance(op, Attach):
                self._apply(op)
        attaches = [op for op in ops if isinstance(op, Attach)]
        if attaches:
            await self._attach_all(attaches, [pods[op.pod.uid] for op in attaches])
        if ops:
            desired = self._desire()
        self._parts.relay.tally.forget(frozenset(one.uid for one in self._parts.mirror.intercepts))
        self._parts.statuses.observe(self._parts.mirror.intercepts)
        self._parts.statuses.want(desired.statuses, complete=self._parts.owners.known)

    def _desire(self) -> Desired:
        parts = self._parts
        intercepts = parts.mirror.intercepts
        pods = parts.mirror.pods
        namespaces = {intercept.namespace for intercept in intercepts}
        return desire(
            View(
                pods=pods,
                chains=parts.owners.chains(pod for pod in pods if pod.namespace in namespaces),
                services=[service for service in parts.mirror.services if service.namespace in namespaces],
                sessions=parts.sessions.all(),
                intercepts=intercepts,
                live=parts.sessions.live(),
                steered={uid: s.routes for uid, s in self._steered.items() if not s.broken},
                failures={uid: failed.failure for uid, failed in self._failed.items()},
                staying={uid: s.relay.pool.staying for uid, s in self._steered.items() if s.relay.pool is not None},
            )
        )

    def _plan(self, pods: Iterable[Pod], desired: Desired) -> list[Op]:
        now = asyncio.get_running_loop().time()
        return plan(
            [PodRef(pod.namespace, pod.name, pod.uid) for pod in pods],
            desired.routes,
            {uid: Attached(s.relay.pod, s.routes, s.broken) for uid, s in self._steered.items()},
            frozenset(uid for uid, failed in self._failed.items() if failed.due > now),
        )

    def _apply(self, op: SetRoutes | Detach) -> None:
        try:
            if isinstance(op, SetRoutes):
                self._steered[op.pod.uid].set_routes(op.routes)
                self._failed.pop(op.pod.uid, None)
            else:
                self._detach(op)
        except Exception as error:
            self._fail("route" if isinstance(op, SetRoutes) else "detach", op.pod, error)
        else:
            log.info("%s", op)

    async def _attach_all(self, ops: Sequence[Attach], pods: Sequence[Pod]) -> None:
        try:
            # Looking through /proc takes time on a full node, and the loop has a lease to renew.
            found = await asyncio.get_running_loop().run_in_executor(None, self._parts.places.find, pods)
        except Exception as error:
            for op in ops:
                self._fail("attach", op.pod, error)
            return
        pools = []
        for op in ops:
            answer = found[op.pod.uid]
            if isinstance(answer, Refusal):
                self._fail("attach", op.pod, NotFoundHereError(answer))
                continue
            try:
                pools.append(await self._attach(op, answer))
            except Exception as error:
                answer.netns.close()
                self._fail("attach", op.pod, error)
            else:
                self._failed.pop(op.pod.uid, None)
                log.info("%s", op)
        # What is reported of them shall be complete. They look all at once: a good part of that is the same for all.
        for pool in pools:
            await pool.looked.wait()

    def _fail(self, step: str, pod: PodRef, error: Exception) -> None:
        self.errors[step] += 1
        reason = error.refusal.reason if isinstance(error, NotFoundHereError) else "AttachFailed"
        expected = isinstance(error, NotFoundHereError | TproxyError | OSError)
        previous = self._failed.get(pod.uid)
        attempts = previous.attempts + 1 if previous else 1
        delay = min(RETRY_FIRST_SECONDS * 2 ** (attempts - 1), RETRY_LIMIT_SECONDS)
        due = asyncio.get_running_loop().time() + delay
        self._failed[pod.uid] = _Failed(Failure(reason, str(error) or type(error).__name__), attempts, due)
        log.warning(
            "cannot %s: %s",
            step,
            error,
            extra={"pod": str(pod), "attempts": attempts, "rate_key": f"{step} {pod.uid}"},
            exc_info=None if expected else error,
        )

    async def _attach(self, op: Attach, place: Place) -> Pool:
        parts = self._parts
        attachment = parts.steering.attach(place.netns, (), place.cgroup)
        relay = PodRelay(parts.relay, op.pod, attachment, of_protocol(op.routes, "TCP"))
        try:
            relay.watch_probes(place.netns)
            # Only once somebody accepts does the kernel get to know the ports.
            await relay.serve()
            pool = relay.watch_pool(parts.pools, place.netns)
            relay.udp.set_routes(of_protocol(op.routes, "UDP"))
        except BaseException:
            relay.abandon()
            raise
        self._steered[op.pod.uid] = Steered(relay, place, place.pod, attachment)
        if not relay.shows_clients:
            log.warning(
                "the app sees its own pod's address on what passes through here: %s",
                "no cgroup of version 2 is to be found" if place.cgroup is None else "the kernel refuses",
                extra={"pod": str(op.pod), "rate_key": "clients"},
            )
        return pool

    def _detach(self, op: Detach) -> None:
        steered = self._steered.pop(op.pod.uid)
        if op.gone and not steered.outdated:
            steered.relay.abandon()
            steered.place.netns.close()
        else:
            steered.relay.stop()
            self._tasks.start(self._finish(steered), f"detach {op.pod}")

    async def _finish(self, steered: Steered) -> None:
        await steered.relay.finish()
        steered.place.netns.close()

    async def _verify(self) -> None:
        loop = asyncio.get_running_loop()
        searched = loop.time()
        while True:
            await asyncio.sleep(VERIFY_SECONDS)
            steered = dict(self._steered)
            pods = {pod.uid: pod for pod in self._parts.mirror.pods if pod.uid in steered}
            thorough = loop.time() - searched >= SEARCH_SECONDS
            suspects = [pod for uid, pod in pods.items() if thorough or pod is not steered[uid].seen]
            try:
                moved = await loop.run_in_executor(None, self._moved, [s.place for s in steered.values()], suspects)
            except OSError as error:
                log.warning("cannot look for pods: %s", error, extra={"rate_key": "verify"})
                continue
            if thorough:
                searched = loop.time()
            outdated = {uid: why for uid, one in steered.items() if (why := one.attachment.outdated())}
            for uid, why in outdated.items():
                steered[uid].broken, steered[uid].outdated = why, True
            for uid in moved:
                steered[uid].broken, steered[uid].outdated = MOVED, False
            for pod in suspects:
                steered[pod.uid].seen = pod
            if moved or outdated:
                self.poke()

    def _moved(self, places: Sequence[Place], suspects: Sequence[Pod]) -> set[str]:
        moved = self._parts.places.moved(places)
        return moved | self._parts.places.elsewhere(places, suspects) if suspects else moved

    async def stop(self) -> None:
        """Give every port back in good order, and say so in the statuses."""
        await self._tasks.close()
        pending = {
            uid: NodeStatus(
                NodeState.PENDING,
                "DaemonStopped",
                message,
                tuple(PodStatus(p.name, p.uid, NodeState.PENDING, "DaemonStopped", message) for p in status.pods),
            )
            for uid, status in self._desire().statuses.items()
            for message in ["the node daemon was stopped"]
        }
        steered, self._steered = list(self._steered.values()), {}
        for one in steered:
            one.relay.stop()
        self._parts.statuses.want(pending)
        await asyncio.gather(*(self._finish(one) for one in steered))
