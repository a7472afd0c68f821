"""The part of the cluster that this node needs, kept up to date by watches: its pods, Services, Sessions, Intercepts.

What cannot be parsed counts as absent, so that nothing is steered on account of it. While the API server is away the
mirror keeps what it knows.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from tproxy.errors import InvalidError
from tproxy.kube.port import INTERCEPTS, PODS, SERVICES, SESSIONS, Applied, Cluster, Object, Removed, Resource
from tproxy.model.intercept import Intercept
from tproxy.model.pod import Pod, Service
from tproxy.model.session import Session
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...


ItemT = TypeVar("ItemT", bound=_Named)


class Watched(Generic[ItemT]):
    """One kind of object.

    `on_applied` and `on_removed` are called as objects come, change and go, `on_listed` when all are known.
    """

    def __init__(
        self,
        resource: Resource,
        parse: Callable[[Object], ItemT],
        on_applied: Callable[[ItemT], None],
        on_removed: Callable[[ItemT], None],
        on_listed: Callable[[], None],
        fields: str = "",
    ) -> None:
        self.items: dict[tuple[str, str], ItemT] = {}
        self.listed = False  # whether all of them are known
        self._resource = resource
        self._parse = parse
        self._on_applied = on_applied
        self._on_removed = on_removed
        self._on_listed = on_listed
        self._fields = fields

    async def follow(self, cluster: Cluster) -> None:
        """Watch for ever."""
        async for event in cluster.watch(self._resource, fields=self._fields):
            if isinstance(event, Applied):
                self._applied(event.object)
            elif isinstance(event, Removed):
                self._removed(event.object)
            else:
                self.listed = True
                self._on_listed()

    def _applied(self, obj: Object) -> None:
        try:
            item = self._parse(obj)
        except InvalidError as error:
            log.warning("ignored: %s", error, extra={"rate_key": f"parse {self._resource.plural}"})
            self._removed(obj)
            return
        self.items[item.namespace, item.name] = item
        self._on_applied(item)

    def _removed(self, obj: Object) -> None:
        metadata = obj.get("metadata")
        if isinstance(metadata, Mapping):
            item = self.items.pop((str(metadata.get("namespace")), str(metadata.get("name"))), None)
            if item is not None:
                self._on_removed(item)


class Mirror:
    """All four kinds. `on_change` is called after each change of any."""

    def __init__(
        self,
        node: str,
        on_change: Callable[[], None],
        on_session: Callable[[Session], None],
        on_session_removed: Callable[[Session], None],
    ) -> None:
        def changed(_: object) -> None:
            on_change()

        self._pods = Watched(PODS, Pod.from_object, changed, changed, on_change, f"spec.nodeName={node}")
        self._services = Watched(SERVICES, Service.from_object, changed, changed, on_change)
        self._sessions = Watched(SESSIONS, Session.from_object, on_session, on_session_removed, on_change)
        self._intercepts = Watched(INTERCEPTS, Intercept.from_object, changed, changed, on_change)
        self._tasks = Tasks("mirror")

    def start(self, cluster: Cluster) -> None:
        """Begin to watch."""
        for name, watched in self._all().items():
            self._tasks.start(watched.follow(cluster), name)

    async def close(self) -> None:
        """Stop watching."""
        await self._tasks.close()

    def _all(self) -> Mapping[str, Watched[Pod] | Watched[Service] | Watched[Session] | Watched[Intercept]]:
        return {
            "sessions": self._sessions,
            "intercepts": self._intercepts,
            "pods": self._pods,
            "services": self._services,
        }

    @property
    def missing(self) -> str:
        """The kinds that have not been listed even once, comma-separated; empty when all have."""
        return ", ".join(name for name, watched in self._all().items() if not watched.listed)

    @property
    def pods(self) -> Sequence[Pod]:
        """The pods of this node."""
        return tuple(self._pods.items.values())

    @property
    def services(self) -> Sequence[Service]:
        """The Services of every namespace."""
        return tuple(self._services.items.values())

    @property
    def intercepts(self) -> Sequence[Intercept]:
        """The Intercepts of every namespace."""
        return tuple(self._intercepts.items.values())
