"""Connections that a pod's relay passes on to the app: health checks, and what the laptop cannot or shall not have."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tproxy.connecting import connect
from tproxy.http.greeting import Greeting
from tproxy.model.flow import Address
from tproxy.steer.port import Attachment
from tproxy.tunnel.bridge import abort_with_reset
from tproxy.tunnel.splice import Splice
from tproxy_node.counts import REASONS
from tproxy_node.ending import end_between
from tproxy_node.flows import Flow
from tproxy_node.plan import PodRef

if TYPE_CHECKING:
    from tproxy_node.relay import Relay

log = logging.getLogger(__name__)


class ToApp:
    """Those of one pod."""

    def __init__(self, relay: "Relay", pod: PodRef, attachment: Attachment) -> None:
        self._relay = relay
        self._pod = pod
        self._attachment = attachment
        self._splices: set[Splice] = set()
        self._joined: Counter[tuple[int, str]] = Counter()

    def join(
        self,
        transport: asyncio.Transport,
        source: Address,
        destination: Address,
        why: str,
        first: bytes = b"",
        greeting: Greeting | None = None,
    ) -> None:
        """Join a client with the app, at the address that it meant; the app gets the bytes that were read already."""
        self._relay.opened[f"app_{why}"] += 1
        self._joined[destination.port, why] += 1
        flow = self._relay.flows.begin(self._pod, source, destination, "app", why, None, transport)
        try:
            upstream = self._attachment.upstream(source, destination)
        except OSError as error:
            self._relay.resets["app"] += 1
            flow.over(f"no way to the app: {error.strerror or error}")
            if not isinstance(error, ConnectionRefusedError):
                log.warning("no way to the app: %s", error, extra={"pod": str(self._pod), "rate_key": "upstream"})
            abort_with_reset(transport)
            return
        splice = Splice()
        splice.on_client_lost = lambda: flow.over("closed")
        if why in ("left", "no_tunnel"):
            end_between(splice, lambda: self._relay.taker(self._pod, destination.port))
        self._splices.add(splice)
        self._relay.entered("app", "")
        transport.set_protocol(splice.client)
        splice.client.connection_made(transport)
        if first:
            splice.client.data_received(first)
        if greeting is not None:
            splice.client.filter, splice.app.filter = (one.feed for one in greeting.filters())
        connecting = self._relay.tasks.start(self._connect(splice, upstream, destination, flow), "upstream")
        splice.over.add_done_callback(lambda _: connecting.cancel() if not splice.app.connected else None)

    async def _connect(self, splice: Splice, upstream: socket.socket, destination: Address, flow: Flow) -> None:
        loop = asyncio.get_running_loop()
        try:
            await connect(upstream, (destination.host, destination.port))
            await loop.create_connection(lambda: splice.app, sock=upstream)
            await splice.over
        except OSError as error:
            self._relay.resets["app"] += 1
            flow.end = f"no way to the app: {error.strerror or error}"
        finally:
            flow.over("closed")
            splice.abort()
            self._attachment.release(upstream)
            self._splices.discard(splice)
            self._relay.left("app", "")

    def joined(self, port: int) -> Mapping[str, int]:
        """Connections to this port that were passed on so far, by reason."""
        return {why: self._joined[port, why] for why in REASONS}

    def abort(self) -> None:
        """Reset all of them."""
        for splice in list(self._splices):
            splice.abort()
