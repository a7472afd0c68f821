"""What an app is told about the other end of connections that we make for a client: the client, port included.

`bpf/peername.bpf.c` answers the app's accept() and getpeername(), attached to the pod's cgroup by links, which end
with this process. It needs Linux 5.8 and a node whose pods are in cgroups of version 2. Where that cannot be had the
app sees the pod's own address.
"""

import collections
import contextlib
import logging
import os
from pathlib import Path

from tproxy.model.flow import Address
from tproxy.steer import layout, libbpf

log = logging.getLogger(__name__)

OBJECT = Path(__file__).with_name("peername.bpf.o")

REMEMBERED = 4096
"""Ended connections of a pod whose clients are still known: an app may accept, or ask, when its client has gone."""


class PeerNames:
    """The clients of one pod's connections to the app."""

    def __init__(self, cgroup: Path) -> None:
        """Answers processes in the directory `cgroup` and below, until `close`. Raises OSError."""
        self._ended: collections.OrderedDict[bytes, None] = collections.OrderedDict()
        with contextlib.ExitStack() as undo:
            directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                program = libbpf.Object(OBJECT)
                undo.callback(program.close)
                program.load()
                for name in layout.PEER_PROGRAMS:
                    undo.callback(program.attach_cgroup(name, directory).close)
            finally:
                os.close(directory)
            self._map = program.map(layout.CLIENTS_MAP)
            self._resources = undo.pop_all()

    def put(self, source: tuple[str, int], client: Address) -> bytes:
        """From now on, who is connected from `source` reads `client`. Returns what `end` wants. Raises OSError."""
        key = layout.source_key(*source)
        self._ended.pop(key, None)
        self._map.update(key, layout.source_key(client.host, client.port))
        return key

    def end(self, key: bytes) -> None:
        """The connection has ended. It is forgotten when many others have."""
        self._ended[key] = None
        if len(self._ended) > REMEMBERED:
            self._map.delete(self._ended.popitem(last=False)[0])

    def close(self) -> None:
        """Answer no more. Idempotent."""
        self._resources.close()


def open_names(cgroup: Path | None) -> PeerNames | None:
    """For the pod with this cgroup; None, with a warning, where that cannot be had."""
    if cgroup is None:
        return None
    try:
        return PeerNames(cgroup)
    except OSError as error:
        log.warning("cannot show apps their clients: %s", error, extra={"cgroup": str(cgroup), "rate_key": "peername"})
        return None
