"""One client's connection that goes to the laptop."""

from typing import Protocol

from tproxy.model.flow import ResetReason
from tproxy.tunnel.bridge import Bridge

Key = tuple[int, str]
"""The pod's port and the intercept's UID."""


class Pod(Protocol):
    """What hears of the end of such a connection."""

    def tunnelled_lost(self, connection: "Tunnelled", key: Key, session: str) -> None:
        """It is over."""
        ...

    def tunnelled_reset(self, reason: ResetReason) -> None:
        """Its far end is gone."""
        ...


class Tunnelled(Bridge):
    """A client's connection that goes to the laptop."""

    def __init__(self, pod: Pod, key: tuple[int, str], session: str) -> None:
        super().__init__()
        self._pod = pod
        self._key = key
        self._session = session

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        self._pod.tunnelled_lost(self, self._key, self._session)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The laptop's side is gone."""
        self._pod.tunnelled_reset(reason)
        super().conn_reset(reason, detail)
