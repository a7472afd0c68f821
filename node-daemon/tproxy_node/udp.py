"""UDP of one pod on its way to laptops: a flow for each client and the address it sends to.

    client ──► receiver in the pod's namespace ──► flow ──► laptop
    client ◄── from the address that it sent to ◄── flow ◄── laptop

A flow ends when it is idle, when its laptop says so, or when there are too many: the one that has been quiet longest
goes first. What cannot be passed on is dropped, as UDP may be; that it reaches the app is the kernel's part, which
stops steering when nobody would take it.
"""

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tproxy.model.flow import Address, FlowKind, OpenRequest, ResetReason
from tproxy.steer.datagrams import receive
from tproxy.steer.port import Answers, Attachment, Counters, Datagram, Datagrams, SteeredPort
from tproxy.tunnel.conn import Buffer, Conn
from tproxy.tunnel.endpoint import Endpoint
from tproxy_node.desired import Route, Routes
from tproxy_node.flows import Flow as Record
from tproxy_node.plan import PodRef

if TYPE_CHECKING:
    from tproxy_node.relay import Relay

log = logging.getLogger(__name__)

ONCE_SECONDS = 30.0
"""What a flow may be quiet for as long as it looks like one question and its answer; the kernel's conntrack says so."""

STREAM_SECONDS = 120.0
"""The same once its client has gone on after an answer."""

SWEEP_SECONDS = 5.0
MAX_FLOWS = 2048
"""Of one pod."""

READS_AT_ONCE = 64
ANSWER_SECONDS = 2.0
"""What answers get to arrive in after their intercept was left."""

Key = tuple[Address, Address]


class Flow:
    """The sink of a flow's connection in the tunnel."""

    def __init__(self, owner: "UdpRelay", key: Key, route: Route, question: Datagram) -> None:
        self.key = key
        self.route = route
        self.question = question
        self.active = 0.0
        self.answered = False
        self.stream = False
        self.flow: Record | None = None
        self.conn: Conn | None = None
        self._owner = owner

    def open(self, stream: Endpoint, pod: PodRef) -> None:
        """Tell the laptop of it."""
        client, destination = self.key
        request = OpenRequest(FlowKind.INBOUND, destination, client, self.route.intercept, str(pod), "udp")
        self.conn = stream.open(request, self)
        self.conn.on_datagram = self._answer

    def _answer(self, payload: bytes) -> None:
        self.answered = True
        self._owner.answer(self, payload)

    def conn_opened(self) -> None:
        """Datagrams have been on their way all along."""

    def conn_data(self, data: Buffer) -> None:
        """Nothing that belongs here."""
        if self.conn is not None:
            self.conn.consumed(len(data))

    def conn_eof(self) -> None:
        """The laptop is done with it."""
        self._owner.end(self)

    def conn_reset(self, reason: ResetReason, detail: str) -> None:
        """The laptop has ended it, or the tunnel is lost."""
        self._owner.lost(self, reason)

    def conn_pause(self) -> None:
        """Datagrams are dropped instead."""

    def conn_resume(self) -> None:
        """Nothing was held back."""


class UdpRelay:
    """The flows of one pod. Costs nothing until a UDP port is routed."""

    def __init__(self, relay: "Relay", pod: PodRef, attachment: Attachment) -> None:
        self.routes: Routes = {}
        self._relay = relay
        self._pod = pod
        self._attachment = attachment
        self._datagrams: Datagrams | None = None
        self._answers: Answers | None = None
        self._flows: OrderedDict[Key, Flow] = OrderedDict()  # the one that was quiet longest first
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def set_routes(self, routes: Routes) -> None:
        """Route like this from now on. Raises TproxyError and OSError if UDP cannot be steered here."""
        if routes and self._datagrams is None:
            self._begin()
        self.routes = dict(routes)
        self.apply()
        self._drain()

    def _begin(self) -> None:
        datagrams = self._attachment.datagrams()
        try:
            self._answers = datagrams.answers()
        except BaseException:
            datagrams.close()
            raise
        self._datagrams = datagrams
        for receiver in datagrams.receivers:
            self._loop.add_reader(receiver.fileno(), self._readable, receiver)
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def apply(self) -> None:
        """Tell the kernel which ports to steer."""
        if self._datagrams is not None and not self._stopped:
            ports = () if self._relay.full else self.routes
            self._datagrams.set_ports(SteeredPort(port, "UDP") for port in ports)

    def counters(self) -> Mapping[int, Counters]:
        """What the kernel did with datagrams, by port."""
        return {} if self._datagrams is None else self._datagrams.counters()

    def stop(self) -> None:
        """Give the ports back at once; what has come still goes to laptops, whose answers have a moment left."""
        if self._stopped:
            return
        self._stopped = True
        if self._datagrams is not None:
            self._datagrams.stop()
            for receiver in self._datagrams.receivers:
                while self._readable(receiver):
                    pass
        self.routes = {}
        if self._flows:
            self._loop.call_later(ANSWER_SECONDS, self.close)
        else:
            self.close()

    def close(self) -> None:
        """End every flow. Idempotent."""
        self._stopped = True
        for flow in list(self._flows.values()):
            self.end(flow)
        if self._timer is not None:
            self._timer.cancel()
        if self._datagrams is not None:
            for receiver in self._datagrams.receivers:
                self._loop.remove_reader(receiver.fileno())
            self._datagrams.close()
            self._datagrams = None
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    def _readable(self, receiver: socket.socket) -> bool:
        """Take what has come, up to a limit; True if there may be more."""
        for _ in range(READS_AT_ONCE):
            try:
                datagram = receive(receiver)
            except OSError:
                return False  # none is left
            if datagram is not None:
                self._relay.datagrams["received" if self._pass(datagram) else "dropped"] += 1
        return True

    def _pass(self, datagram: Datagram) -> bool:
        """To the laptop; False if it was dropped."""
        key = (datagram.client, datagram.destination)
        route = self.routes.get(datagram.destination.port)
        flow = self._flows.get(key)
        if flow is not None and route is not None and flow.route.intercept != route.intercept:
            self.end(flow)
            flow = None
        if flow is None:
            flow = self._open(key, route, datagram) if route is not None else None
            if flow is None:
                return False
        elif flow.answered:
            flow.stream = True
        flow.question = datagram
        flow.active = self._loop.time()
        self._flows.move_to_end(key)
        return flow.conn is not None and flow.conn.write_datagram(datagram.payload)

    def _open(self, key: Key, route: Route, datagram: Datagram) -> Flow | None:
        relay = self._relay
        stream = relay.pick(route.session)
        if stream is None:
            return None
        if len(self._flows) >= MAX_FLOWS or relay.by_session[route.session] >= relay.limits.per_session:
            if not self._flows:
                return None  # all of them are connections, or other pods'
            self.end(next(iter(self._flows.values())))
        flow = Flow(self, key, route, datagram)
        self._flows[key] = flow
        relay.entered("laptop", route.session)
        relay.opened["udp"] += 1
        flow.flow = relay.flows.begin(self._pod, *key, "laptop", "intercept", route, protocol="UDP")
        flow.open(stream, self._pod)
        return flow

    def answer(self, flow: Flow, payload: bytes) -> None:
        """Of the laptop, to the flow's client."""
        flow.active = self._loop.time()
        if flow.key in self._flows:
            self._flows.move_to_end(flow.key)
        sent = self._answers is not None and self._answers.send(payload, flow.question)
        self._relay.datagrams["answered" if sent else "dropped"] += 1

    def lost(self, flow: Flow, reason: ResetReason) -> None:
        """The laptop has ended it. Where nobody listens the client hears of it as it would from the pod."""
        self._relay.resets[reason.value] += 1
        if flow.flow is not None:
            flow.flow.end = reason.value
        if reason is ResetReason.REFUSED and self._answers is not None:
            self._answers.refuse(flow.question)
        self.end(flow)

    def end(self, flow: Flow) -> None:
        """Idempotent."""
        if self._flows.get(flow.key) is flow:
            del self._flows[flow.key]
            self._relay.left("laptop", flow.route.session)
            if flow.flow is not None:
                flow.flow.over("idle or ended")
            if flow.conn is not None:
                flow.conn.reset(ResetReason.RESET, "the flow has ended")

    def _drain(self) -> None:
        left = [
            flow
            for flow in self._flows.values()
            if (route := self.routes.get(flow.key[1].port)) is None or route.intercept != flow.route.intercept
        ]
        if left:
            self._loop.call_later(ANSWER_SECONDS, self._end_all, left)

    def _end_all(self, flows: list[Flow]) -> None:
        for flow in flows:
            self.end(flow)

    def _sweep(self) -> None:
        now = self._loop.time()
        for flow in list(self._flows.values()):
            if now - flow.active > (STREAM_SECONDS if flow.stream else ONCE_SECONDS):
                self.end(flow)
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)
