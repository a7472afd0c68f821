"""The pods that connections leave from: found once, looked at again and again, given up when the pod has gone."""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tproxy.model.dial_policy import IPAddress, plain
from tproxy.model.flow import ResetReason
from tproxy.model.pod import Pod
from tproxy.model.resolv_conf import MAX_BYTES, ResolvConf, parse_resolv_conf
from tproxy.netns.refusal import Refusal, refusal
from tproxy_node.dial.failure import DialError
from tproxy_node.dial.resolver import Resolver
from tproxy_node.places import Place, Places

log = logging.getLogger(__name__)

VERIFY_SECONDS = 3.0
UNUSED_SECONDS = 120.0
RESOLV_CONF = "/etc/resolv.conf"


@dataclass(eq=False)
class Origin:
    """A pod that connections leave from. `text` is its resolv.conf as it is, `resolvers` those it names.

    `flows` are called when the pod has gone.
    """

    pod: Pod
    place: Place
    text: str
    configuration: ResolvConf
    resolvers: frozenset[IPAddress]
    resolver: Resolver
    flows: set[Callable[[], None]] = field(default_factory=set)
    used: float = 0.0

    @property
    def name(self) -> str:
        """`namespace/name`."""
        return f"{self.pod.namespace}/{self.pod.name}"

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A non-blocking socket inside the pod's network. Raises OSError."""
        made = self.place.netns.socket(family, kind)
        made.setblocking(False)
        return made

    def close(self) -> None:
        """End what leaves from here."""
        for end in list(self.flows):
            end()
        self.resolver.close()
        self.place.netns.close()


class Origins:
    """All of them on this node. `pods` gives the pods of the node as the API server has them."""

    def __init__(self, pods: Callable[[], Sequence[Pod]], places: Places) -> None:
        self._pods = pods
        self._places = places
        self._known: dict[str, Origin] = {}
        self._finding: dict[str, asyncio.Lock] = {}

    async def get(self, namespace: str, name: str) -> Origin:
        """The pod `name` in `namespace`, or any that runs if `name` is empty. Raises `DialError`."""
        failure: DialError | None = None
        for pod in self._candidates(namespace, name):
            try:
                return await self._origin(pod)
            except DialError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        what = f"pod {namespace}/{name} does not run" if name else f'no pod of namespace "{namespace}" runs'
        raise DialError(ResetReason.UNREACHABLE, f"{what} on this node")

    def _candidates(self, namespace: str, name: str) -> list[Pod]:
        pods = [p for p in self._pods() if p.namespace == namespace and p.running and name in ("", p.name)]
        if not name:
            pods = [p for p in pods if refusal(p.host_network, p.runtime_class) is None]
        # One that is known, else one that is ready.
        return sorted(pods, key=lambda pod: (pod.uid not in self._known, not pod.ready, pod.name))

    async def _origin(self, pod: Pod) -> Origin:
        refused = refusal(pod.host_network, pod.runtime_class)
        if refused is not None:
            raise DialError(
                ResetReason.DENIED, f"nothing is dialled from pod {pod.namespace}/{pod.name}: {refused.message}"
            )
        if (origin := self._known.get(pod.uid)) is None:
            lock = self._finding.setdefault(pod.uid, asyncio.Lock())
            async with lock:
                if (origin := self._known.get(pod.uid)) is None:
                    origin = await self._find(pod)
                    self._known[pod.uid] = origin
            self._finding.pop(pod.uid, None)
        origin.used = time.monotonic()
        return origin

    async def _find(self, pod: Pod) -> Origin:
        try:
            place, text = await asyncio.get_running_loop().run_in_executor(None, self._enter, pod)
        except OSError as error:
            raise DialError(
                ResetReason.INTERNAL, f"cannot look into pod {pod.name}: {error.strerror or error}"
            ) from error
        configuration = parse_resolv_conf(text)
        resolvers = frozenset(found for each in configuration.nameservers if (found := plain(each)) is not None)
        resolver = Resolver(place.netns.socket, configuration, random.SystemRandom())
        log.info("dials leave from pod %s/%s", pod.namespace, pod.name)
        return Origin(pod, place, text, configuration, resolvers, resolver)

    def _enter(self, pod: Pod) -> tuple[Place, str]:
        """Blocks."""
        found = self._places.find([pod])[pod.uid]
        if isinstance(found, Refusal):
            raise DialError(ResetReason.UNREACHABLE, f"pod {pod.namespace}/{pod.name}: {found.message}")
        try:
            text = self._places.read(found, RESOLV_CONF, MAX_BYTES).decode(errors="replace")
        except OSError as error:  # an image may have none
            log.warning("pod %s/%s has no resolv.conf: %s", pod.namespace, pod.name, error)
            text = ""
        except BaseException:
            found.netns.close()
            raise
        return found, text

    async def look(self) -> None:
        """For ever: give up pods that have gone or have moved to another network, and those nobody uses."""
        while True:
            await asyncio.sleep(VERIFY_SECONDS)
            await self.verify()

    async def verify(self) -> None:
        """Look once."""
        origins = dict(self._known)
        if not origins:
            return
        running = {pod.uid for pod in self._pods() if pod.running}
        unused = time.monotonic() - UNUSED_SECONDS
        places = [origin.place for origin in origins.values()]
        moved = await asyncio.get_running_loop().run_in_executor(None, self._places.moved, places)
        for uid, origin in origins.items():
            if uid not in running or uid in moved or (not origin.flows and origin.used < unused):
                del self._known[uid]
                origin.close()

    def close(self) -> None:
        """Give up all."""
        for origin in self._known.values():
            origin.close()
        self._known.clear()
