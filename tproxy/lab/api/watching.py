"""Watches over HTTP: one JSON document a line, from a position in the store's log."""

import asyncio
import json
import random
from collections.abc import Mapping

from aiohttp import web

from tproxy.kube.port import Object, Resource
from tproxy.lab.api import selectors
from tproxy.lab.api.errors import BadRequestError, ExpiredError, status_of
from tproxy.lab.api.resources import Kind
from tproxy.lab.api.store import Change, Store
from tproxy.lab.api.table import Render, renderer

BOOKMARK_SECONDS = 30.0
STALLED_SECONDS = 30.0
"""How long a client may leave a full socket unread before it is dropped."""


async def serve(http: web.Request, store: Store, kind: Kind, namespace: str) -> web.StreamResponse:
    """Answer a watch request until the client goes, falls behind, or `timeoutSeconds` are over."""
    query, resource = http.query, kind.resource
    matches = selectors.matcher(resource.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
    stream = _Stream(query, store, resource, namespace, matches, renderer(http, kind))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    first = stream.initial()
    try:
        await response.prepare(http)
        await response.write(first)
    except ConnectionError:
        return response  # The client has not waited for an answer.
    end = asyncio.get_running_loop().time() + stream.seconds
    while not stream.ended and (transport := http.transport) is not None and not transport.is_closing():
        left = end - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(left, BOOKMARK_SECONDS)):
                await store.wait([resource], stream.version)
            lines = stream.changes()
        except TimeoutError:
            # A change may have come together with the time-out.
            lines = stream.changes() + stream.bookmark()
            stream.ended = stream.ended or left <= BOOKMARK_SECONDS
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await response.write(lines)
        except TimeoutError:
            transport.abort()
            break
        except ConnectionError:
            break  # The client has left since.
    return response


class _Stream:
    """Turns the log into lines for one client."""

    def __init__(
        self,
        query: Mapping[str, str],
        store: Store,
        resource: Resource,
        namespace: str,
        matches: selectors.Test,
        render: Render,
    ) -> None:
        self._store = store
        self._resource = resource
        self._namespace = namespace
        self._matches = matches
        self._render = render
        self._bookmarks = query.get("allowWatchBookmarks", "").lower() in ("1", "true")
        self._initial_events = query.get("sendInitialEvents", "").lower() in ("1", "true")
        try:
            self.version = int(query.get("resourceVersion") or 0)
            self.seconds = float(query.get("timeoutSeconds") or random.uniform(1800, 3600))  # noqa: S311
        except ValueError as error:
            raise BadRequestError("resourceVersion and timeoutSeconds are numbers") from error
        self.ended = False

    def initial(self) -> bytes:
        """What exists if the client asked for no version, else what it has missed. Nothing is missed in between."""
        if self.version and not self._initial_events:
            return self.changes()
        self.version = self._store.version
        present = self._store.list(self._resource, self._namespace)
        lines = b"".join(self._line("ADDED", obj) for obj in present if self._matches(obj))
        return lines + (self.bookmark(initial_events_end=True) if self._initial_events else b"")

    def changes(self) -> bytes:
        """The lines for everything since the last call; a single error, and the end, if the log has moved on."""
        try:
            # A version of the future comes from a client that knew an earlier lab at the same address.
            if self.version > self._store.version:
                raise ExpiredError(f"too large resource version: {self.version}")
            changes = self._store.changes(self._resource, self.version)
        except ExpiredError as error:
            self.ended = True
            return json.dumps({"type": "ERROR", "object": status_of(error)}).encode() + b"\n"
        self.version = self._store.version
        return b"".join(self._change(change) for change in changes)

    def _change(self, change: Change) -> bytes:
        if self._namespace not in ("", change.last["metadata"].get("namespace", "")):
            return b""
        was = change.before is not None and self._matches(change.before)
        if change.after is not None and self._matches(change.after):
            return self._line("MODIFIED" if was else "ADDED", change.after)
        # An object that stops matching the selector is as good as deleted for this client.
        return self._line("DELETED", change.last) if was else b""

    def bookmark(self, initial_events_end: bool = False) -> bytes:
        """The line that tells how far the client has come, if it wants such lines."""
        if not self._bookmarks or self.ended:
            return b""
        metadata: Object = {"resourceVersion": str(self.version), "creationTimestamp": None}
        if initial_events_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        body = {"kind": self._resource.kind, "apiVersion": self._resource.api_version, "metadata": metadata}
        return json.dumps({"type": "BOOKMARK", "object": body}).encode() + b"\n"

    def _line(self, kind: str, obj: Object) -> bytes:
        return json.dumps({"type": kind, "object": self._render(obj)}).encode() + b"\n"
