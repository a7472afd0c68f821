"""What a container was given, as its user may read it from the API server: where node daemons leave that to them.

The pod's spec says where everything comes from, the kubeconfig's own rights decide what may be seen, and the API
server's audit log has it. What only the image or the node knows is missing: ENV lines of the image, the variables of
Services, `resourceFieldRef`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from tproxy.env import spec, volumes
from tproxy.env.archive import File
from tproxy.errors import ClusterError, DeniedError, TproxyError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import CONFIGMAPS, PODS, SECRETS, Cluster, Object, Resource
from tproxy_cli.daemon.given.source import Source

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
"""How often the objects are read while files are followed: gently, for each time is a request per object."""

TOKEN_SECONDS = 3600
_KINDS = {"ConfigMap": CONFIGMAPS, "Secret": SECRETS}
_KNOWN_SOURCES = ("fieldRef", "configMapKeyRef", "secretKeyRef")

Names = set[tuple[str, str]]


async def environment(api: Cluster, source: Source) -> dict[str, str]:
    """The environment that the pod's spec gives the container. Raises TproxyError."""
    pod, container = await _find(api, source)
    known = [one for one in container.get("env") or () if _is_known(one)]
    if missing := [one["name"] for one in container.get("env") or () if one not in known]:
        log.info("variables that only the node knows are left out: %s", ", ".join(missing))
    container = {**container, "env": known}
    names = {*_named(container.get("envFrom") or (), "configMapRef", "secretRef")}
    names |= {*_named((one.get("valueFrom") or {} for one in known), "configMapKeyRef", "secretKeyRef")}
    return spec.environment({}, container, pod, await _fetch(api, source, names))


async def follow_files(api: Callable[[], Cluster], source: Source) -> AsyncIterator[list[File]]:
    """The files that the pod's spec gives the container, and again whenever they have changed. Raises TproxyError."""
    before: list[File] | None = None
    while True:
        found = await _files(api(), source)
        if found != before:
            before = found
            yield found
        await asyncio.sleep(LOOK_SECONDS)


async def _files(api: Cluster, source: Source) -> list[File]:
    pod, container = await _find(api, source)
    mounted = {mount["name"] for mount in container.get("volumeMounts") or ()}
    wanted = [one for one in pod["spec"].get("volumes") or () if one["name"] in mounted and volumes.is_filled(one)]
    lookup = await _fetch(api, source, {name for volume in wanted for name in volumes.references(volume)})
    tokens = await _tokens(api, source, pod, wanted)

    def token(asked: Mapping[str, Any]) -> bytes | None:
        return tokens.get(str(asked.get("audience", "")))

    filled = {volume["name"]: volumes.content(volume, pod, lookup, token) for volume in wanted}
    variables = {one["name"]: one["value"] for one in container.get("env") or () if "value" in one}
    return volumes.files(pod["spec"], container, variables, filled)


async def _find(api: Cluster, source: Source) -> tuple[Object, Object]:
    try:
        pod = await api.get(PODS, source.pod, source.namespace)
    except DeniedError as error:
        raise _denied(error) from error
    for one in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())):
        if one["name"] == source.container:
            return pod, one
    raise ClusterError(f"there is no {source} any more", "run the command again")


async def _fetch(api: Cluster, source: Source, names: Names) -> spec.Lookup:
    async def get(kind: str, name: str) -> Mapping[str, bytes] | None:
        try:
            return spec.data_of({"kind": kind, **await api.get(_KINDS[kind], name, source.namespace)})
        except NotFoundError:
            return None
        except DeniedError as error:
            raise _denied(error) from error

    wanted = sorted(names)
    found = dict(zip(wanted, await asyncio.gather(*(get(*name) for name in wanted)), strict=True))
    return lambda kind, name: found.get((kind, name))


async def _tokens(api: Cluster, source: Source, pod: Object, wanted: list[Object]) -> dict[str, bytes]:
    """A token per audience. Who may not have one does without: most apps need none on a laptop."""
    asked = [
        part["serviceAccountToken"]
        for volume in wanted
        for part in (volume.get("projected") or {}).get("sources") or ()
        if "serviceAccountToken" in part
    ]
    tokens = {}
    for audience in sorted({str(one.get("audience", "")) for one in asked}):
        account = pod["spec"].get("serviceAccountName", "default")
        resource = Resource("", "v1", f"serviceaccounts/{account}/token", "TokenRequest")
        body: dict[str, Any] = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience] if audience else [], "expirationSeconds": TOKEN_SECONDS},
        }
        try:
            tokens[audience] = str((await api.create(resource, body, source.namespace))["status"]["token"]).encode()
        except (TproxyError, KeyError) as error:
            log.info("no service account token: %s", error, extra={"account": account})
    return tokens


def _is_known(variable: Object) -> bool:
    return "valueFrom" not in variable or any(kind in variable["valueFrom"] for kind in _KNOWN_SOURCES)


def _named(sources: Any, config_map: str, secret: str) -> Iterator[tuple[str, str]]:
    for source in sources:
        for part, kind in ((config_map, "ConfigMap"), (secret, "Secret")):
            if part in source:
                yield kind, source[part]["name"]


def _denied(error: DeniedError) -> DeniedError:
    return DeniedError(
        f"here everybody reads with their own rights, and {error.message[:1].lower()}{error.message[1:]}",
        error.hint or "ask an administrator for the right to get it",
    )
