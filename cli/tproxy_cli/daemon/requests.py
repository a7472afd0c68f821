"""What the command line may ask for, read from JSON and checked before anything is done.

The socket belongs to the user alone, so nonsense is a bug or another version, not an attack; it gets a sentence all
the same.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tproxy.env.environ import select
from tproxy.env.render import FORMATS, render
from tproxy.errors import InvalidError
from tproxy.model.conditions import Asked, parse_conditions
from tproxy.model.direct import Transport
from tproxy.model.intercept import DRAIN_SECONDS, MAX_DRAIN_SECONDS, Existing, OnDisconnect, OnRefused, Probes
from tproxy.model.workload import PortMapping, TargetQuery, parse_ports, parse_target
from tproxy.tunnel.proxy_protocol import Version

MAX_BYTES = 64 * 1024
"""Longest request body."""

DEFAULT_TIMEOUT_SECONDS = 30.0
LONGEST_TIMEOUT_SECONDS = 3600.0

HTTP_TEXTS = ("path", "pathPrefix", "pathRegex", "method")

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Where:
    """The cluster and namespace meant. None: what kubectl would take; and for `transport`, as before."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None
    transport: Transport | None = None

    @classmethod
    def of(cls, body: Body) -> "Where":
        """Read the part `cluster` of a request."""
        cluster = body.get("cluster") or {}
        if not isinstance(cluster, Mapping):
            raise _unexpected("cluster")
        transport = cluster.get("transport")
        if transport not in (None, "port-forward", "direct"):
            raise _unexpected("transport")
        kubeconfig, context, namespace = (
            _text_or_none(cluster, name) for name in ("kubeconfig", "context", "namespace")
        )
        return cls(kubeconfig, context, namespace, transport)


@dataclass(frozen=True, slots=True)
class EnvironmentForm:
    """Which of a container's environment is wanted, by shell patterns of names, and in which format."""

    format: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    @classmethod
    def of(cls, body: object) -> "EnvironmentForm":
        """Read the part `environment` of a request."""
        if not isinstance(body, Mapping) or body.get("format") not in FORMATS:
            raise _unexpected("environment")
        return cls(_text(body, "format"), _texts(body, "include"), _texts(body, "exclude"))

    def select(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Those of `variables` that are wanted."""
        return select(variables, self.include, self.exclude)

    def render(self, variables: Mapping[str, str]) -> str:
        """`variables` as text, bytes that are no UTF-8 as surrogates. Raises `InvalidError`."""
        return render(self.format, variables).decode("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False, slots=True)
class EnvironmentRequest:
    """`tproxy env`. Each is only equal to itself: it names who uses a session."""

    where: Where
    target: TargetQuery
    container: str
    form: EnvironmentForm

    @classmethod
    def of(cls, body: Body) -> "EnvironmentRequest":
        """Read a request's body."""
        target, container = parse_target(_text(body, "target")), _text_or_none(body, "container") or ""
        return cls(Where.of(body), target, container, EnvironmentForm.of(body.get("environment")))


@dataclass(frozen=True, slots=True)
class InterceptRequest:
    """`tproxy intercept`."""

    where: Where
    target: TargetQuery
    ports: tuple[PortMapping, ...]
    asked: Asked
    on_disconnect: OnDisconnect
    on_refused: OnRefused
    probes: Probes
    timeout: float
    existing: Existing = "idle"
    drain_seconds: int = DRAIN_SECONDS
    container: str = ""
    environment: "EnvironmentForm | None" = None
    files: str = ""
    run: str = ""
    proxy_protocol: Version | None = None

    @classmethod
    def of(cls, body: Body) -> "InterceptRequest":
        """Read a request's body."""
        ports = _texts(body, "ports")
        on_disconnect = body.get("onDisconnect", "fallback")
        if on_disconnect not in ("fallback", "fail"):
            raise _unexpected("onDisconnect")
        on_refused = body.get("onRefused", "fail")
        if on_refused not in ("fail", "fallback"):
            raise _unexpected("onRefused")
        probes = body.get("probes", "app")
        if probes not in ("app", "laptop"):
            raise _unexpected("probes")
        existing = body.get("existing", "idle")
        if existing not in ("idle", "keep", "reset"):
            raise _unexpected("existing")
        drain = body.get("drainSeconds", DRAIN_SECONDS)
        if isinstance(drain, bool) or not isinstance(drain, int):
            raise _unexpected("drainSeconds")
        if not 0 <= drain <= MAX_DRAIN_SECONDS:
            raise InvalidError(f"{drain} seconds to drain make no sense", f"take 0 to {MAX_DRAIN_SECONDS} seconds")
        proxy = body.get("proxyProtocol")
        if proxy not in (None, "v1", "v2"):
            raise _unexpected("proxyProtocol")
        timeout = body.get("timeoutSeconds", DEFAULT_TIMEOUT_SECONDS)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise _unexpected("timeoutSeconds")
        if not 0 < timeout <= LONGEST_TIMEOUT_SECONDS:
            raise InvalidError(
                f"a timeout of {timeout:g} s makes no sense", f"take 1 to {LONGEST_TIMEOUT_SECONDS:.0f} seconds"
            )
        return cls(
            where=Where.of(body),
            target=parse_target(_text(body, "target")),
            ports=tuple(parse_ports(port) for port in ports),
            asked=_asked(body),
            on_disconnect="fail" if on_disconnect == "fail" else "fallback",
            on_refused="fallback" if on_refused == "fallback" else "fail",
            probes="laptop" if probes == "laptop" else "app",
            timeout=float(timeout),
            existing="keep" if existing == "keep" else "reset" if existing == "reset" else "idle",
            drain_seconds=drain,
            container=_text_or_none(body, "container") or "",
            run=_text_or_none(body, "run") or "",
            environment=EnvironmentForm.of(body["environment"]) if body.get("environment") else None,
            files=_directory(body, "files"),
            proxy_protocol=proxy,
        )


@dataclass(frozen=True, slots=True)
class LeaveRequest:
    """`tproxy leave`. `force`: intercepts of others, too."""

    where: Where
    names: tuple[str, ...]
    all: bool
    force: bool = False

    @classmethod
    def of(cls, body: Body) -> "LeaveRequest":
        """Read a request's body."""
        names, everything = _texts(body, "names"), _flag(body, "all")
        if bool(names) == everything:
            raise InvalidError("say what to leave", "`tproxy leave NAME` or `tproxy leave --all`")
        force = _flag(body, "force")
        if force and everything:
            raise InvalidError("--force leaves intercepts by name only", "`tproxy list` shows them")
        return cls(Where.of(body), names, everything, force)


@dataclass(frozen=True, slots=True)
class ListRequest:
    """`tproxy list`."""

    where: Where
    all_namespaces: bool

    @classmethod
    def of(cls, body: Body) -> "ListRequest":
        """Read a request's body."""
        return cls(Where.of(body), _flag(body, "allNamespaces"))


@dataclass(frozen=True, slots=True)
class CompleteRequest:
    """Shell completion."""

    where: Where
    what: str
    prefix: str

    @classmethod
    def of(cls, body: Body) -> "CompleteRequest":
        """Read a request's body."""
        what = _text(body, "what")
        if what not in ("workloads", "intercepts", "namespaces"):
            raise _unexpected("what")
        return cls(Where.of(body), what, _text_or_none(body, "prefix") or "")


def _asked(body: Body) -> Asked:
    http = body.get("http") or {}
    if not isinstance(http, Mapping):
        raise _unexpected("http")
    path, prefix, regex, method = (_text_or_none(http, name) or "" for name in HTTP_TEXTS)
    return parse_conditions(_texts(http, "headers"), _texts(http, "baggage"), path, prefix, regex, method)


def _directory(body: Body, name: str) -> str:
    path = _text_or_none(body, name) or ""
    if path and not (os.path.isabs(path) and os.path.normpath(path) == path and path != "/"):
        raise _unexpected(name)
    return path


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _unexpected(name)
    return value


def _text_or_none(body: Body, name: str) -> str | None:
    return None if body.get(name) in (None, "") else _text(body, name)


def _texts(body: Body, name: str) -> tuple[str, ...]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _unexpected(name)
    return tuple(value)


def _flag(body: Body, name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise _unexpected(name)
    return value


def _unexpected(name: str) -> InvalidError:
    return InvalidError(
        f"the daemon does not understand the request's {name}",
        "command line and daemon may be of different versions: `tproxy quit`, then run the command again",
    )
