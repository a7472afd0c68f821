"""A laptop's presence in one namespace, and when it has ended."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tproxy.model.fields import Fields, format_time

API_VERSION = "tproxy.dev/v1alpha1"
SYSTEM_NAMESPACE = "tproxy-system"
"""The namespace of the node daemons. Whoever may create a Session there may ask them everything, and nothing else."""

MIN_TTL_SECONDS = 3600
MAX_TTL_SECONDS = 30 * 24 * 3600
TOKEN_BYTES = 32

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Session:
    """One laptop in one namespace. `token_hash` is what `hash_token` makes of the secret token."""

    namespace: str
    name: str
    uid: str
    token_hash: str
    user: str
    host: str
    renew_time: datetime | None
    ttl_seconds: int

    @classmethod
    def from_object(cls, obj: object) -> "Session":
        """Parse what the API server sent; `InvalidError` on anything that is no Session."""
        fields = Fields.of_object(obj, "Session")
        metadata, spec = fields.part("metadata"), fields.part("spec")
        return cls(
            namespace=metadata.name("namespace"),
            name=metadata.name("name"),
            uid=metadata.text("uid", ""),
            token_hash=spec.text("tokenHash", limit=64, pattern=_HASH, must="64 lower-case hexadecimal digits"),
            user=spec.text("user", "", limit=512),
            host=spec.text("host", ""),
            renew_time=spec.time("renewTime"),
            ttl_seconds=spec.number("ttlSeconds", MIN_TTL_SECONDS, MAX_TTL_SECONDS),
        )

    def to_object(self) -> dict[str, Any]:
        """The object to create."""
        spec: dict[str, Any] = {
            "tokenHash": self.token_hash,
            "user": self.user,
            "host": self.host,
            "ttlSeconds": self.ttl_seconds,
        }
        if self.renew_time is not None:
            spec["renewTime"] = format_time(self.renew_time)
        return {
            "apiVersion": API_VERSION,
            "kind": "Session",
            "metadata": {"namespace": self.namespace, "name": self.name},
            "spec": spec,
        }

    @staticmethod
    def renew_patch(time: datetime) -> Mapping[str, Any]:
        """The merge patch that keeps the Session alive for another ttl."""
        return {"spec": {"renewTime": format_time(time)}}


def hash_token(token: bytes) -> str:
    """What the Session object may show of a token."""
    return hashlib.sha256(token).hexdigest()


def token_matches(session: Session, token: bytes) -> bool:
    """Whether `token` is the Session's, in constant time."""
    return len(token) == TOKEN_BYTES and hmac.compare_digest(hash_token(token), session.token_hash)


@dataclass(slots=True)
class _Seen:
    session: Session
    since: float


class ExpiryTracker:
    """Which Sessions nobody renews any more.

    Clocks of laptops are not trusted: a Session has expired when its renewTime has not changed for its ttl by the
    observer's own clock. All times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def observe(self, session: Session, now: float) -> None:
        """Take note of a Session as it looks now; repeating it unchanged does not renew it."""
        seen = self._seen.get(session.uid)
        if seen is None or seen.session.renew_time != session.renew_time:
            self._seen[session.uid] = _Seen(session, now)
        else:
            seen.session = session

    def forget(self, uid: str) -> None:
        """The Session is gone."""
        self._seen.pop(uid, None)

    def expired(self, now: float) -> list[Session]:
        """Sessions whose ttl has passed without renewal."""
        return [seen.session for seen in self._seen.values() if now - seen.since >= seen.session.ttl_seconds]
