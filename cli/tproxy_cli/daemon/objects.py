"""The objects of one session in the cluster: the Session and the Intercepts it owns."""

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from tproxy.errors import InvalidError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import INTERCEPTS, SESSIONS, Cluster, Object
from tproxy.model.intercept import Intercept
from tproxy.model.session import Session, hash_token
from tproxy_cli.daemon.clock import seconds_since_boot
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.state import SavedSession


class SessionObjects:
    """Creates, finds, renews and deletes them. Every call raises TproxyError.

    `saved` follows the Session object; its `intercepts` are not kept up to date here. `renewed` is the time of the
    last renewal in seconds since boot.
    """

    def __init__(self, cluster: Cluster, saved: SavedSession, host: str) -> None:
        self.cluster = cluster
        self.saved = saved
        self.renewed = seconds_since_boot() - max(0.0, time.time() - saved.renewed_at)
        self._host = host
        self._gone = False

    @property
    def expired(self) -> bool:
        """Whether the nodes may have deleted the Session because it was not renewed."""
        return seconds_since_boot() - self.renewed >= self.saved.ttl_seconds

    @property
    def renewal_due(self) -> bool:
        """Whether a third of the ttl has passed."""
        return seconds_since_boot() - self.renewed >= self.saved.ttl_seconds / 3

    def forget_uid(self) -> None:
        """The Session is no more."""
        self.saved = replace(self.saved, uid="")

    async def create_session(self) -> None:
        """Create the Session."""
        saved = self.saved
        session = Session(
            namespace=saved.namespace,
            name=saved.name,
            uid="",
            token_hash=hash_token(saved.token),
            user=saved.user,
            host=self._host,
            renew_time=datetime.now(UTC),
            ttl_seconds=saved.ttl_seconds,
        )
        created = await self.cluster.create(SESSIONS, session.to_object(), saved.namespace)
        self._renewed(Session.from_object(created).uid)

    async def find_session(self) -> Session | None:
        """The Session as it is now, if there is one and it still is ours."""
        try:
            session = Session.from_object(await self.cluster.get(SESSIONS, self.saved.name, self.saved.namespace))
            self._gone = session.token_hash != hash_token(self.saved.token)
        except NotFoundError:
            self._gone = True
        if self._gone:
            return None
        self.saved = replace(self.saved, uid=session.uid)
        return session

    async def renew_session(self) -> None:
        """Keep the Session for another ttl. Raises `NotFoundError` if it is gone."""
        patch = Session.renew_patch(datetime.now(UTC))
        await self.cluster.patch(SESSIONS, self.saved.name, patch, self.saved.namespace)
        self._renewed(self.saved.uid)

    async def delete_session(self) -> None:
        """Delete the Session, unless it is known not to be there; its Intercepts follow."""
        if not self._gone:
            await self.cluster.delete(SESSIONS, self.saved.name, self.saved.namespace, uid=self.saved.uid)

    async def create_intercept(self, held: Held) -> None:
        """Create an Intercept and note its UID. Raises `AlreadyExistsError` if the name is taken."""
        intercept = Intercept(
            namespace=self.saved.namespace,
            name=held.name,
            uid="",
            session=self.saved.name,
            session_uid=self.saved.uid,
            target=held.saved.target,
            ports=tuple(port.pod for port in held.saved.ports),
            match=held.saved.match,
            on_disconnect=held.saved.on_disconnect,
            on_refused=held.saved.on_refused,
            probes=held.saved.probes,
            existing=held.saved.existing,
            drain_seconds=held.saved.drain_seconds,
        )
        created = await self.cluster.create(INTERCEPTS, intercept.to_object(), self.saved.namespace)
        held.saved = replace(held.saved, uid=Intercept.from_object(created).uid)

    async def find_intercepts(self) -> dict[str, Intercept]:
        """The Session's Intercepts that exist, by name."""
        found = parse_intercepts(await self.cluster.list(INTERCEPTS, self.saved.namespace))
        return {one.name: one for one in found if one.session_uid == self.saved.uid}

    async def mark_leaving(self, held: Held) -> None:
        """Ask the nodes to let go. Raises `NotFoundError` if the Intercept is gone."""
        await self.cluster.patch(INTERCEPTS, held.name, Intercept.leave_patch(), self.saved.namespace)

    async def delete_intercept(self, held: Held) -> None:
        """Delete an Intercept, whether we know its UID yet or not."""
        await self.cluster.delete(INTERCEPTS, held.name, self.saved.namespace, uid=held.saved.uid)

    def _renewed(self, uid: str) -> None:
        self.renewed = seconds_since_boot()
        self._gone = False
        self.saved = replace(self.saved, uid=uid, renewed_at=time.time())


def parse_sessions(listed: Iterable[Object]) -> dict[str, Session]:
    """The Sessions by UID, without those that make no sense."""
    found = {}
    for each in listed:
        try:
            session = Session.from_object(each)
        except InvalidError:
            continue
        found[session.uid] = session
    return found


def parse_intercepts(listed: Iterable[Object]) -> list[Intercept]:
    """The Intercepts, without those that make no sense."""
    return [intercept for each in listed if (intercept := parse_intercept(each)) is not None]


def parse_intercept(each: Object) -> Intercept | None:
    """The Intercept, or None for one that makes no sense: somebody else's mistake must not stop us."""
    try:
        return Intercept.from_object(each)
    except InvalidError:
        return None
