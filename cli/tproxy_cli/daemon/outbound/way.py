"""The way into a cluster for the laptop's own traffic, and keeping it.

choose a pod ──▶ Session, tunnel to its node ──▶ its resolv.conf ──▶ up ──▶ pod gone, tunnel lost ──▶ choose …
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from tproxy.dns import wire
from tproxy.dns.cache import Cache
from tproxy.errors import ClusterError, TproxyError
from tproxy.kube.port import PODS, Applied, Removed, Synced
from tproxy.kube.workloads import resolve
from tproxy.model.flow import Address
from tproxy.model.pod import Pod
from tproxy.model.resolv_conf import ResolvConf, parse_resolv_conf
from tproxy.model.workload import TargetQuery
from tproxy.netns.refusal import refusal
from tproxy.tasks import Tasks
from tproxy.tunnel.conn import Conn, ConnSink
from tproxy.tunnel.endpoint import Endpoint
from tproxy_cli.daemon.cluster import LaptopCluster
from tproxy_cli.daemon.dial import no_daemon
from tproxy_cli.daemon.outbound.flows import Questions, UdpFlow, dial_request, read_text
from tproxy_cli.daemon.outbound.port import DatagramFlow, DatagramSink
from tproxy_cli.daemon.session import LaptopSession
from tproxy_cli.daemon.tunnels import Backoff

log = logging.getLogger(__name__)

TUNNEL_SECONDS = 15.0
"""How long a node's tunnel may take before another node is tried."""

SYNC_SECONDS = 3.0
"""How long a new way waits until the cluster's addresses are known."""


async def open_outbound(
    cluster: LaptopCluster,
    namespace: str,
    target: TargetQuery | None = None,
    on_change: Callable[[], None] | None = None,
) -> "Way":
    """A way into `namespace` of `cluster`, leaving from a pod of `target`, or from any.

    `on_change` is called whenever `origin`, `trouble` or `resolv_conf` may be other than before. Raises TproxyError:
    nothing is left behind then.
    """
    user = (await asyncio.gather(cluster.user(), cluster.check_access(namespace)))[0]
    way = Way(cluster, namespace, target, user, on_change or (lambda: None))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(cluster.addresses.start(namespace))
            group.create_task(way.begin())
        with suppress(TimeoutError):
            async with asyncio.timeout(SYNC_SECONDS):
                await cluster.addresses.synced.wait()
    except BaseException as error:
        await way.close()
        if isinstance(error, BaseExceptionGroup):
            raise error.exceptions[0] from None
        raise
    return way


class Way:
    """An `Outbound`. Made by `open_outbound`."""

    def __init__(
        self,
        cluster: LaptopCluster,
        namespace: str,
        target: TargetQuery | None,
        user: str,
        on_change: Callable[[], None],
    ) -> None:
        self.origin = ""
        self.node = ""
        self.trouble = "there is no tunnel yet"
        self.resolv_conf = ResolvConf()
        self._cluster = cluster
        self._namespace = namespace
        self._target = target
        self._user = user
        self._on_change = on_change
        self._pod = ""
        self._session: LaptopSession | None = None
        self._endpoint: Endpoint | None = None
        self._questions: Questions | None = None
        self._answers = Cache(time.monotonic)
        self._avoid = ""
        self._tasks = Tasks("outbound")

    async def begin(self) -> None:
        """Make the way for the first time, and keep it from then on. Raises TproxyError."""
        await self._make()
        self._cluster.addresses.listeners.append(self._addresses_changed)
        self._tasks.start(self._keep(), "keep")

    def owns(self, address: str) -> bool:
        """Whether a numeric address is the cluster's."""
        return self._cluster.addresses.owns(address)

    def has_service(self, namespace: str, name: str) -> bool:
        """Whether the cluster has a Service of that name, as far as the user may see."""
        return self._cluster.addresses.has_service(namespace, name)

    def open_tcp(self, destination: Address, source: Address | None, sink: ConnSink) -> Conn:
        """Dial."""
        return self._lightest().open(dial_request("tcp", destination, source, self._pod), sink)

    def open_udp(self, destination: Address, source: Address | None, sink: DatagramSink) -> DatagramFlow:
        """Begin a flow."""
        return UdpFlow(self._lightest(), dial_request("udp", destination, source, self._pod), sink)

    async def query(self, message: bytes) -> bytes:
        """Ask the pod's resolvers, unless that is known; what they say of names in the cluster is the cluster's."""
        if self._questions is None or self.trouble:
            raise ClusterError(f"the cluster's DNS cannot be asked: {self.trouble}")
        if (kept := self._answers.get(message)) is not None:
            return kept
        answer = await self._questions.ask(message)
        if wire.rcode(answer) == wire.NOERROR:  # what says that there is nothing names no addresses
            with suppress(wire.MalformedError):
                if f".{wire.question(message).name}".endswith(f".{self.resolv_conf.cluster_domain}"):
                    self._cluster.addresses.learn(address for address, _ in wire.addresses(answer))
        self._answers.put(message, answer)
        return answer

    async def close(self) -> None:
        """Let go of the Session."""
        if self._addresses_changed in self._cluster.addresses.listeners:
            self._cluster.addresses.listeners.remove(self._addresses_changed)
        await self._tasks.close()
        self._down("closed")
        session, self._session = self._session, None
        if session is not None:
            await session.release(self)

    def _addresses_changed(self, address: str, known: bool) -> None:
        """A Service or a pod has come or gone: names may mean something else now."""
        self._answers.clear()

    def _up(self) -> Endpoint:
        """The tunnel, or the one there was, on which everything ends with TUNNEL_LOST at once."""
        assert self._endpoint is not None, "begin() has not returned"  # noqa: S101
        return self._endpoint

    def _lightest(self) -> Endpoint:
        """For a new connection: of the streams to the node the one that carries the fewest."""
        lightest = self._session.tunnels.lightest(self.node) if self._session is not None else None
        return lightest or self._up()

    def _down(self, why: str) -> None:
        self.trouble = why
        self.origin = self.node = ""
        self._answers.clear()
        self._on_change()

    async def _keep(self) -> None:
        backoff = Backoff()
        while True:
            why = await self._watch_over()
            log.warning("the way into the cluster is lost: %s", why, extra={"namespace": self._namespace})
            self._down(why)
            while True:
                try:
                    await self._make()
                except TproxyError as error:
                    self._down(error.message)
                    await asyncio.sleep(backoff.next())
                else:
                    backoff.reset()
                    break

    async def _make(self) -> None:
        """Choose a pod and make the way to it. Raises TproxyError."""
        pod = await self._choose()
        session = self._cluster.session(self._namespace, self._user)
        if session is not self._session and self._session is not None:
            await self._session.release(self)
        self._session = session
        while session.resuming:
            await session.changed.wait()
        session.keep_for(self, [pod.node])
        session.prepare()
        await session.begin()
        self._avoid = pod.node
        endpoint = await _tunnel(session, pod.node)
        name = f"{pod.namespace}/{pod.name}" if self._target is not None else ""
        text = await read_text(endpoint, "resolv.conf", name)
        self._avoid = ""
        self._endpoint, self._pod = endpoint, name
        self._questions = Questions(endpoint, name)
        self.resolv_conf = parse_resolv_conf(text)
        self.origin = text.partition("\n")[0].removeprefix("# ")
        self.node, self.trouble = pod.node, ""
        log.info("a way into the cluster", extra={"pod": self.origin, "node": self.node})
        self._on_change()

    async def _choose(self) -> Pod:
        """A pod to leave from. Raises TproxyError."""
        api, namespace = self._cluster.api, self._namespace
        if self._target is not None:
            found = await resolve(api, namespace, self._target)
            pods, what = found.pods, str(found.target)
        else:
            pods = [Pod.from_object(each) for each in await api.list(PODS, namespace)]
            what = f'namespace "{namespace}"'
        running = [pod for pod in pods if pod.running and pod.node]
        if not running:
            raise ClusterError(f"no pod of {what} runs", f"see `kubectl get pods -n {namespace}`")
        refused = {pod.uid: refusal(pod.host_network, pod.runtime_class) for pod in running}
        usable = [pod for pod in running if refused[pod.uid] is None]
        if not usable:
            first = refused[running[0].uid]
            raise ClusterError(
                f"nothing can be dialled from {what}: {first.message if first else ''}", "name another target"
            )
        daemons = await self._cluster.node_daemons()
        served = [pod for pod in usable if pod.node in daemons]
        if not served:
            raise no_daemon(usable[0].node)
        connected = self._connected()
        return min(
            served,
            key=lambda pod: (pod.node == self._avoid, not pod.ready, pod.node not in connected, pod.name),
        )

    def _connected(self) -> set[str]:
        session = self._cluster.sessions.get(self._namespace)
        views = session.tunnels.views() if session is not None else []
        return {view.node for view in views if view.state == "connected"}

    async def _watch_over(self) -> str:
        """Wait until the way is no more; why."""
        endpoint, origin = self._up(), self.origin
        lost = self._tasks.start(endpoint.wait_closed(), "tunnel")
        gone = self._tasks.start(self._pod_gone(origin), "pod")
        try:
            await asyncio.wait([lost, gone], return_when=asyncio.FIRST_COMPLETED)
            if not lost.done():
                return f"pod {origin} has gone"
            if self._session is not None:
                await self._session.check()  # perhaps it was the Session that went
            return f"the tunnel to node {self.node} was lost: {lost.result()}"
        finally:
            lost.cancel()
            gone.cancel()
            await asyncio.gather(lost, gone, return_exceptions=True)

    async def _pod_gone(self, origin: str) -> None:
        """Return when the pod no longer runs."""
        namespace, _, name = origin.partition("/")
        seen = False
        async for event in self._cluster.api.watch(PODS, namespace, fields=f"metadata.name={name}"):
            if isinstance(event, Applied):
                seen = True
                if not Pod.from_object(event.object).running:
                    return
            elif isinstance(event, Removed) or (isinstance(event, Synced) and not seen):
                return


async def _tunnel(session: LaptopSession, node: str) -> Endpoint:
    """The tunnel to `node` once it stands. Raises TproxyError."""
    deadline = asyncio.get_running_loop().time() + TUNNEL_SECONDS
    while True:
        changed = session.changed
        view = next((each for each in session.tunnels.views() if each.node == node), None)
        if session.ended or view is None:
            raise ClusterError("the session has ended meanwhile", "run the command again")
        if view.endpoint is not None and view.endpoint.alive:
            return view.endpoint
        if view.hopeless is not None:
            raise view.hopeless
        if not await session.wait_changed(changed, deadline - asyncio.get_running_loop().time()):
            raise ClusterError(
                f"no tunnel to node {node} after {TUNNEL_SECONDS:.0f} s: {view.error or view.state}",
                "`tproxy doctor` checks the cluster side",
            )
