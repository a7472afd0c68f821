"""Readiness and liveness probes as a kubelet sends them: from the node's address, one new connection each time."""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from tproxy.errors import InvalidError
from tproxy.lab.grpc_probe import USER_AGENT, grpc_health
from tproxy.netns.handle import Netns

_MAX_STATUS_LINE = 8192


@dataclass(frozen=True, slots=True)
class HttpGet:
    """Healthy if the answer's status is 200 to 399. An empty `host` is the pod's address."""

    host: str
    port: int
    path: str
    tls: bool
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TcpConnect:
    """Healthy if the handshake succeeds."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class GrpcHealth:
    """Healthy if the server says SERVING of `service`, over HTTP/2 without TLS."""

    port: int
    service: str


@dataclass(frozen=True, slots=True)
class Command:
    """Healthy if the command, run inside the container, exits with 0."""

    command: tuple[str, ...]


Check = HttpGet | TcpConnect | GrpcHealth | Command


@dataclass(frozen=True, slots=True)
class Probe:
    """What to check and how often. Times in seconds."""

    check: Check
    initial_delay: float
    period: float
    timeout: float
    successes: int
    failures: int


def parse(spec: Mapping[str, Any], ports: Mapping[str, int]) -> Probe:
    """Read a probe of a container whose named ports are `ports`. Raises InvalidError."""
    return Probe(
        check=_check(spec, ports),
        initial_delay=spec.get("initialDelaySeconds") or 0,
        period=spec.get("periodSeconds") or 10,
        timeout=spec.get("timeoutSeconds") or 1,
        successes=spec.get("successThreshold") or 1,
        failures=spec.get("failureThreshold") or 3,
    )


def _check(spec: Mapping[str, Any], ports: Mapping[str, int]) -> Check:
    if (get := spec.get("httpGet")) is not None:
        return HttpGet(
            host=get.get("host") or "",
            port=_port(get.get("port"), ports),
            path="/" + (get.get("path") or "/").removeprefix("/"),
            tls=get.get("scheme") == "HTTPS",
            headers=tuple((header["name"], header["value"]) for header in get.get("httpHeaders") or ()),
        )
    if (connect := spec.get("tcpSocket")) is not None:
        return TcpConnect(connect.get("host") or "", _port(connect.get("port"), ports))
    if (execute := spec.get("exec")) is not None:
        return Command(tuple(execute.get("command") or ()))
    if (grpc := spec.get("grpc")) is not None:
        return GrpcHealth(_port(grpc.get("port"), {}), grpc.get("service") or "")
    raise InvalidError("the lab knows the probes httpGet, tcpSocket, grpc and exec")


def _port(value: object, ports: Mapping[str, int]) -> int:
    if isinstance(value, str) and value in ports:
        return ports[value]
    if isinstance(value, int) and 0 < value < 65536:
        return value
    raise InvalidError(f"the container has no port {value!r} for its probe")


class Threshold:
    """Turns single results into a state that changes only after enough of them in a row."""

    def __init__(self, healthy: bool, successes: int, failures: int) -> None:
        self.healthy = healthy
        self._needed = {True: successes, False: failures}
        self._last: bool | None = None
        self._count = 0

    def observe(self, ok: bool) -> bool:
        """Take one result; True if the state changed."""
        self._count = self._count + 1 if ok == self._last else 1
        self._last = ok
        if ok == self.healthy or self._count < self._needed[ok]:
            return False
        self.healthy = ok
        return True


class Prober:
    """Runs checks of one pod from inside its node's network namespace."""

    def __init__(self, node: Netns, pod_address: str, execute: Callable[[Sequence[str]], Awaitable[int]]) -> None:
        self._node = node
        self._pod_address = pod_address
        self._execute = execute

    async def failure(self, probe: Probe) -> str:
        """Why the check fails, or an empty string if it succeeds."""
        try:
            async with asyncio.timeout(probe.timeout):
                match probe.check:
                    case HttpGet() as get:
                        return await self._http(get)
                    case TcpConnect(host, port):
                        (await self._connected(host, port)).close()
                        return ""
                    case GrpcHealth(port, service):
                        return await grpc_health(
                            await self._connected("", port), f"{self._pod_address}:{port}", service
                        )
                    case Command(command):
                        code = await self._execute(command)
                        return f"command exited with {code}" if code else ""
        except TimeoutError:
            return f"no answer within {probe.timeout:g} s"
        except OSError as error:
            # The event loops word the same error differently.
            return os.strerror(error.errno) if error.errno else str(error)
        except (ValueError, RuntimeError) as error:
            # RuntimeError is what uvloop raises for a connection that the other side has closed already.
            return str(error)

    async def _connected(self, host: str, port: int) -> socket.socket:
        address = host or self._pod_address
        family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
        sock = self._node.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _http(self, get: HttpGet) -> str:
        sock = await self._connected(get.host, get.port)
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=_trusting() if get.tls else None, server_hostname="" if get.tls else None
        )
        try:
            writer.write(request(get, self._pod_address))
            line = (await reader.readuntil(b"\r\n"))[:_MAX_STATUS_LINE].decode("latin-1")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise OSError("the answer is not HTTP") from error
        finally:
            writer.close()
        version, _, rest = line.partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/") or not status.isdigit():
            return "the answer is not HTTP"
        return "" if 200 <= int(status) < 400 else f"HTTP probe failed with statuscode: {status}"


def request(get: HttpGet, pod_address: str) -> bytes:
    """The bytes a kubelet sends; headers of the probe replace the usual ones."""
    host = get.host or pod_address
    usual = {
        "Host": f"[{host}]:{get.port}" if ":" in host else f"{host}:{get.port}",
        "User-Agent": USER_AGENT,
        "Accept": "*/*",
        "Connection": "close",
    }
    given = dict(get.headers)
    replaced = {name.lower() for name in given}
    headers = {name: value for name, value in usual.items() if name.lower() not in replaced} | given
    lines = [f"GET {get.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _trusting() -> ssl.SSLContext:
    # A kubelet does not verify certificates of probes.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
