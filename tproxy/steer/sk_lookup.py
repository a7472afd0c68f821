"""Steering by the kernel's socket lookup: `bpf/sk_lookup.bpf.c`, its maps, and the sockets it hands over.

Nothing is pinned. A link lives as long as the descriptor this process holds, so death in whatever form detaches it,
and a process that hangs lets the lease run out.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tproxy.netns.handle import Netns
from tproxy.steer import layout, libbpf
from tproxy.steer.listeners import open_bound, open_listeners, queued
from tproxy.steer.port import Attachment, Counters, SteeredPort

log = logging.getLogger(__name__)

NAME = "sk_lookup"
OBJECT = Path(__file__).with_name("sk_lookup.bpf.o")


class SkLookupAttachment:
    """Steering in one network namespace; made by `SkLookup.attach`."""

    def __init__(self, netns: Netns, lease: libbpf.Map, ports: Iterable[SteeredPort]) -> None:
        """Takes `netns` over only on success. Raises OSError."""
        self._link: libbpf.Link | None = None
        self._own: dict[socket.socket, bytes] = {}
        self._ports: frozenset[SteeredPort] = frozenset()
        self._past: dict[int, Counters] = {}
        self._listeners: list[socket.socket] = []
        self._object = libbpf.Object(OBJECT)
        try:
            self._object.share(layout.LEASE_MAP, lease)
            self._object.load()
            self._ports_map = self._object.map(layout.PORTS_MAP)
            self._own_map = self._object.map(layout.OWN_MAP)
            listen_map = self._object.map(layout.LISTENERS_MAP)
            self._listeners = open_listeners(netns)
            for listener in self._listeners:
                listen_map.update(layout.listener_key(listener.family), layout.listener_value(listener.fileno()))
            self.set_ports(ports)
            self._link = self._object.attach_netns(layout.PROGRAM, netns.fileno())
        except BaseException:
            self._release()
            raise
        self._netns = netns

    @property
    def backend(self) -> str:
        return NAME

    @property
    def listeners(self) -> Sequence[socket.socket]:
        return tuple(self._listeners)

    @property
    def ports(self) -> frozenset[SteeredPort]:
        return self._ports

    def set_ports(self, ports: Iterable[SteeredPort]) -> None:
        wanted = frozenset(ports)
        fresh = b"".join(bytes(layout.COUNTERS_SIZE) for _ in range(libbpf.possible_cpus()))
        for port in wanted - self._ports:
            self._ports_map.update(layout.port_key(port), fresh)
            self._ports |= {port}
        for port in self._ports - wanted:
            self._past[port.port] = self._count(port)
            self._ports_map.delete(layout.port_key(port))
            self._ports -= {port}

    def upstream(self, family: socket.AddressFamily, destination: tuple[str, int]) -> socket.socket:
        sock = open_bound(self._netns, family, destination)
        try:
            key = layout.source_key(*sock.getsockname()[:2])
            self._own_map.update(key, layout.OWN_VALUE)
        except BaseException:
            sock.close()
            raise
        self._own[sock] = key
        return sock

    def release(self, sock: socket.socket) -> None:
        sock.close()
        key = self._own.pop(sock, None)
        if key is not None:
            self._own_map.delete(key)

    def counters(self) -> Mapping[int, Counters]:
        return {port.port: self._count(port) for port in self._ports}

    def stop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    async def drained(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while any(queued(listener) for listener in self._listeners):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    def close(self) -> None:
        self.stop()
        self._release()
        self._netns.close()

    def _release(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._object.close()

    def _count(self, port: SteeredPort) -> Counters:
        values = self._ports_map.lookup_per_cpu(layout.port_key(port), layout.COUNTERS_SIZE)
        return Counters() if values is None else layout.counters(values)


class SkLookup:
    """The backend; holds the one lease of all its attachments."""

    def __init__(self) -> None:
        self._lease = libbpf.OwnedMap.array(layout.LEASE_MAP, 8, 1)
        self._attachments: list[SkLookupAttachment] = []

    @property
    def name(self) -> str:
        return NAME

    def attach(self, netns: Netns, ports: Iterable[SteeredPort]) -> Attachment:
        own = Netns(os.dup(netns.fileno()))
        try:
            attachment = SkLookupAttachment(own, self._lease, ports)
        except BaseException:
            own.close()
            raise
        self._attachments.append(attachment)
        return attachment

    def renew(self, seconds: float) -> None:
        deadline = time.monotonic_ns() + int(seconds * 1e9)
        self._lease.update(layout.LEASE_KEY, layout.lease_value(deadline))

    def close(self) -> None:
        for attachment in self._attachments:
            attachment.close()
        self._attachments.clear()
        self._lease.close()
