"""Port-forward: a unix socket on the laptop whose connections come out at a port of a pod.

    gRPC ── unix socket ── PortForward ── WebSocket per connection ── API server ── kubelet ── pod 127.0.0.1:port

Each way, whoever cannot take more stops the other's reading, so nothing is held beyond the sockets' write buffers.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import stat
from typing import cast
from urllib.parse import quote

from tproxy.accepting import Accepting
from tproxy.errors import ClusterError, TproxyError
from tproxy.kube import channels
from tproxy.kube.api import ApiCluster
from tproxy.kube.errors import Call
from tproxy.kube.port import PODS
from tproxy.kube.transport import Upgraded
from tproxy.tasks import Tasks

log = logging.getLogger(__name__)

CONNECTIONS = 64
"""Connections of one PortForward at a time."""

_MESSAGE = 64 << 10  # the far end holds a message whole before it passes it on
_WRITE_BUFFER = 256 << 10
_CLOSE_SECONDS = 5.0
_ERROR_LIMIT = 1024
_PORT_BYTES = 2
_PATH_LIMIT = 103  # macOS; Linux allows four more


class PortForward:
    """Forwards connections to a unix socket to `port` of a pod, each over a WebSocket of its own."""

    def __init__(
        self, cluster: ApiCluster, namespace: str, pod: str, port: int, directory: str | os.PathLike[str]
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._pod = pod
        self._port = port
        self._directory = os.fspath(directory)
        self._path = ""
        self._accepting: Accepting | None = None
        self._tasks = Tasks("port-forward")
        self._ready: Upgraded | None = None
        self._links: set[_LaptopSide] = set()
        self.error: TproxyError | None = None

    async def start(self) -> str:
        """Begin to listen and return the socket's path: in `directory`, which only the user may enter.

        The first WebSocket is opened at once and kept for the first connection, so that a missing pod or right is
        raised here: `DeniedError`, `NotFoundError`, `ClusterError`. What fails later is in `error`.
        """
        self._path = _socket_path(self._directory)
        self._ready = await self._open()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(self._path)
            os.chmod(self._path, 0o600)
            sock.listen(CONNECTIONS)
            self._accepting = Accepting(sock, lambda: _LaptopSide(self), str(self))
        except BaseException as error:
            sock.close()
            await self.close()
            if isinstance(error, OSError):
                raise ClusterError(f"cannot listen on {self._path}: {error.strerror or error}") from error
            raise
        return self._path

    async def close(self) -> None:
        """Stop listening, cut what is open, remove the socket."""
        accepting, self._accepting = self._accepting, None
        if accepting is not None:
            await accepting.close()
        await self._tasks.close()
        for link in list(self._links):
            link.abort()
        if self._ready is not None:
            self._ready.close()
            self._ready = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def __str__(self) -> str:
        return f"port {self._port} of pod {self._namespace}/{self._pod}"

    async def _open(self) -> Upgraded:
        path = f"/api/v1/namespaces/{quote(self._namespace, safe='')}/pods/{quote(self._pod, safe='')}/portforward"
        # The API server asks RBAC for the verb of the HTTP method: `create` for SPDY's POST, `get` for a WebSocket.
        call = Call.on("get", PODS, self._namespace, self._pod, "portforward")
        return await self._cluster.transport.upgrade(path, call, {"ports": str(self._port)}, channels.SUBPROTOCOL)

    def _accepted(self, laptop: "_LaptopSide") -> None:
        if self._accepting is None:  # accepted just before it was closed: nobody would end it any more
            laptop.abort()
            return
        if len(self._links) >= CONNECTIONS:
            log.warning("too many connections", extra={"forward": str(self)})
            laptop.abort()
            return
        self._links.add(laptop)
        self._tasks.start(self._join(laptop), str(self))

    async def _join(self, laptop: "_LaptopSide") -> None:
        upgraded, self._ready = self._ready, None
        try:
            if upgraded is None or not upgraded.alive:
                if upgraded is not None:
                    upgraded.close()
                upgraded = await self._open()
            if laptop.transport is None:
                upgraded.close()
            else:
                upgraded.take_over(_PodSide(self, upgraded, laptop))
        except TproxyError as error:
            self._failed(error)
            laptop.abort()

    def _failed(self, error: TproxyError) -> None:
        if self.error is None or self.error.message != error.message:
            log.warning("port-forward failed", extra={"forward": str(self), "error": error.message})
        self.error = error


class _LaptopSide(asyncio.Protocol):
    """A connection to the unix socket."""

    def __init__(self, forward: PortForward) -> None:
        self._forward = forward
        self._pod: _PodSide | None = None
        self._early = b""
        self._ended = False
        self.transport: asyncio.Transport | None = None

    def join(self, pod: "_PodSide") -> None:
        """The way to the pod is open."""
        self._pod = pod
        if self._early:
            pod.send(self._early)
            self._early = b""
        if self._ended:
            pod.finish()
        else:
            self.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._forward._accepted(self)

    def data_received(self, data: bytes) -> None:
        if self._pod is not None:
            self._pod.send(data)
        else:
            # Not paused from the beginning because uvloop doesn't honour that in `connection_made`.
            self._early += data
            self.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        if self._pod is not None:
            self._pod.finish()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._forward._links.discard(self)
        if self._pod is not None:
            self._pod.abort()

    def pause_writing(self) -> None:
        if self._pod is not None:
            self._pod.pause_reading()

    def resume_writing(self) -> None:
        if self._pod is not None:
            self._pod.resume_reading()

    def pause_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing() and not self._ended:
            self.transport.resume_reading()

    def write(self, parts: list[memoryview]) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.writelines(parts)

    def close(self) -> None:
        """Deliver what was written, then end."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _PodSide(asyncio.Protocol):
    """The WebSocket to the API server."""

    def __init__(self, forward: PortForward, upgraded: Upgraded, laptop: _LaptopSide) -> None:
        self._forward = forward
        self._upgraded = upgraded
        self._laptop = laptop
        self._decoder = channels.Decoder()
        self._port = {channels.DATA: b"", channels.ERROR: b""}
        self._error = b""
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._laptop.join(self)

    def data_received(self, data: bytes) -> None:
        parts: list[memoryview] = []
        try:
            for event in self._decoder.feed(data):
                match event:
                    case channels.Data(channel, payload):
                        self._payload(channel, payload, parts)
                    case channels.Ping(payload):
                        self._write(channels.pong(payload))
                    case channels.Close():
                        self.finish()
                        self._hang_up()
        except channels.ProtocolError as error:
            self._forward._failed(ClusterError(f"the API server sent nonsense on {self._forward}: {error}"))
            self.abort()
            return
        if parts:
            self._laptop.write(parts)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._upgraded.close()
        if self._error:
            text = self._error.decode(errors="replace").strip()
            self._forward._failed(ClusterError(f"the cluster cannot reach {self._forward}: {text}"))
        self._laptop.close()

    def pause_writing(self) -> None:
        self._laptop.pause_reading()

    def resume_writing(self) -> None:
        self._laptop.resume_reading()

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Bytes for the pod."""
        for at in range(0, len(data), _MESSAGE):
            self._write(channels.message(channels.DATA, data[at : at + _MESSAGE]))

    def finish(self) -> None:
        """Nothing more is to be sent. The protocol has no half-close: what the pod still says is delivered until the
        other end closes too, which it does as soon as it hears of ours.
        """
        if not self._closing:
            self._write(channels.close())
            self._closing = True
            self._timer = asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._closing:
            self._transport.write(data)

    def _payload(self, channel: int, payload: memoryview, parts: list[memoryview]) -> None:
        if channel not in self._port:
            raise channels.ProtocolError(f"channel {channel} was not asked for")
        if missing := _PORT_BYTES - len(self._port[channel]):
            self._port[channel] += bytes(payload[:missing])
            payload = payload[missing:]
        if channel == channels.DATA and payload:
            parts.append(payload)
        elif channel == channels.ERROR:
            self._error += bytes(payload[: _ERROR_LIMIT - len(self._error)])


def _socket_path(directory: str) -> str:
    """A fresh path in `directory`, which is made if it is missing and must be closed to other users."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        status = os.stat(directory, follow_symlinks=False)
    except OSError as error:
        raise ClusterError(f"cannot make the directory {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ClusterError(
            f"{directory} is open to other users: no socket is made there", hint=f"remove it: `rm -r {directory}`"
        )
    path = os.path.join(directory, f"{secrets.token_hex(4)}.sock")
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise ClusterError(f"the path {path} is too long for a socket", hint="set XDG_RUNTIME_DIR to a shorter one")
    return path
