"""What the daemon must not forget when it is killed: its sessions with their tokens, and where intercepts lead to.

One JSON file, mode 0600, replaced atomically, so that a reader sees the old or the new content and never a part.
Everything is written before the object it describes is created in the cluster: what a crash can leave behind is an
entry without an object, never an object without its token.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tproxy.errors import InvalidError
from tproxy.model.direct import Transport
from tproxy.model.fields import Fields
from tproxy.model.intercept import DRAIN_SECONDS, Existing, InterceptPort, OnDisconnect, OnRefused, Probes, Target
from tproxy.model.match import Match
from tproxy.tunnel.proxy_protocol import Version

FORMAT = 1
MAX_BYTES = 16 * 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaptopPort:
    """A port of the laptop and the pod's port whose connections it gets."""

    laptop: int
    pod: InterceptPort


@dataclass(frozen=True, slots=True)
class SavedIntercept:
    """An Intercept this laptop made, or is about to make while `uid` is empty.

    `files` is the directory that the container's files are copied to, empty for none; `container` is the one that was
    asked for, empty for the one that has the ports; `run` is the run whose command gets the connections, empty for
    the laptop's own ports; `proxy_protocol` is how the local app is told of its clients.
    """

    name: str
    uid: str
    target: Target
    ports: tuple[LaptopPort, ...]
    on_disconnect: OnDisconnect
    probes: Probes
    existing: Existing = "idle"
    drain_seconds: int = DRAIN_SECONDS
    match: Match | None = None
    on_refused: OnRefused = "fail"
    files: str = ""
    container: str = ""
    run: str = ""
    proxy_protocol: Version | None = None


@dataclass(frozen=True, slots=True)
class SavedSession:
    """A Session this laptop made, or is about to make while `uid` is empty. `renewed_at` is wall-clock time;
    `transport` is how the nodes of its cluster are reached."""

    kubeconfig: str | None
    context: str
    namespace: str
    name: str
    uid: str
    token: bytes
    user: str
    ttl_seconds: int
    renewed_at: float
    intercepts: tuple[SavedIntercept, ...]
    transport: Transport = "port-forward"

    def __repr__(self) -> str:
        return f"SavedSession({self.context}, {self.namespace}/{self.name})"  # the token stays out of logs


class StateFile:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[SavedSession]:
        """The saved sessions. A file that makes no sense is put aside as `*.broken` and counts as empty."""
        try:
            return self.peek()
        except InvalidError as error:
            broken = self._path.with_suffix(".broken")
            self._path.replace(broken)
            log.warning("cannot read the saved sessions (%s); put aside as %s", error.message, broken)
            return []

    def peek(self) -> list[SavedSession]:
        """The saved sessions, and the file stays as it is. Raises OSError, InvalidError if it makes no sense."""
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES)
        except FileNotFoundError:
            return []
        try:
            document = json.loads(content)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']}")
            return [_session(item) for item in document["sessions"]]
        except (ValueError, KeyError, TypeError, AttributeError, InvalidError) as error:
            raise InvalidError(type(error).__name__) from error

    def save(self, sessions: Iterable[SavedSession]) -> None:
        """Replace the content. Raises OSError."""
        document = {"format": FORMAT, "sessions": [_plain(session) for session in sessions]}
        descriptor, temporary = tempfile.mkstemp(prefix=self._path.name, dir=self._path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file, indent=1)
            os.replace(temporary, self._path)
        except BaseException:
            os.unlink(temporary)
            raise


def _plain(session: SavedSession) -> dict[str, Any]:
    intercepts = [
        {**asdict(each), "match": each.match.to_object() if each.match is not None else None}
        for each in session.intercepts
    ]
    return {**asdict(session), "token": session.token.hex(), "intercepts": intercepts}


def _session(item: Mapping[str, Any]) -> SavedSession:
    kubeconfig = item["kubeconfig"]
    return SavedSession(
        kubeconfig=None if kubeconfig is None else str(kubeconfig),
        context=str(item["context"]),
        namespace=str(item["namespace"]),
        name=str(item["name"]),
        uid=str(item["uid"]),
        token=bytes.fromhex(item["token"]),
        user=str(item["user"]),
        ttl_seconds=int(item["ttl_seconds"]),
        renewed_at=float(item["renewed_at"]),
        intercepts=tuple(_intercept(each) for each in item["intercepts"]),
        transport="direct" if item["transport"] == "direct" else "port-forward",
    )


def _intercept(item: Mapping[str, Any]) -> SavedIntercept:
    target, existing = item["target"], item["existing"]
    return SavedIntercept(
        name=str(item["name"]),
        uid=str(item["uid"]),
        target=Target(str(target["kind"]), str(target["name"])),
        ports=tuple(
            LaptopPort(int(port["laptop"]), InterceptPort(int(port["pod"]["port"]), str(port["pod"]["protocol"])))
            for port in item["ports"]
        ),
        on_disconnect="fail" if item["on_disconnect"] == "fail" else "fallback",
        probes="laptop" if item["probes"] == "laptop" else "app",
        existing="keep" if existing == "keep" else "reset" if existing == "reset" else "idle",
        drain_seconds=int(item["drain_seconds"]),
        match=Match.from_fields(Fields(match, "the saved match")) if (match := item["match"]) is not None else None,
        on_refused="fallback" if item["on_refused"] == "fallback" else "fail",
        proxy_protocol=proxy if (proxy := item["proxy_protocol"]) in ("v1", "v2") else None,
        files=str(item["files"]),
        container=str(item["container"]),
        run=str(item["run"]),
    )
