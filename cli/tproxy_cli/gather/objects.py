"""Kubernetes objects as an archive has them: copied field by field, so that what nobody thought of stays out. Pure."""

from collections.abc import Mapping
from typing import Any

from tproxy_cli.gather.secrets import REMOVED

_METADATA = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "generation", "resourceVersion")
_SESSION = ("user", "host", "renewTime", "ttlSeconds")
_INTERCEPT = ("target", "ports", "onDisconnect", "onRefused", "probes", "existing")
_NODE = ("kernelVersion", "osImage", "containerRuntimeVersion", "kubeletVersion", "architecture")
_CONTAINER = ("name", "image", "imageID", "ready", "started", "restartCount", "state", "lastState")
_EVENT = ("type", "reason", "message", "count", "firstTimestamp", "lastTimestamp", "eventTime")


def session(given: Mapping[str, Any]) -> dict[str, Any]:
    """A Session without the hash of its token."""
    return {"metadata": _metadata(given), "spec": _some(given.get("spec"), _SESSION), "status": given.get("status")}


def intercept(given: Mapping[str, Any]) -> dict[str, Any]:
    """An Intercept; of what requests are matched by the names and kinds, not the values."""
    spec = _some(given.get("spec"), _INTERCEPT)
    if wanted := (given.get("spec") or {}).get("match"):
        spec["match"] = match(wanted)
    owners = [_some(one, ("kind", "name", "uid")) for one in given.get("metadata", {}).get("ownerReferences") or []]
    return {"metadata": {**_metadata(given), "owners": owners}, "spec": spec, "status": given.get("status")}


def match(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A match with the values of headers and baggage removed."""
    if not given:
        return None
    shown = dict(given)
    for kind in ("headers", "baggage"):
        if kind in shown:
            shown[kind] = [{**one, "value": REMOVED} for one in shown[kind]]
    return shown


def matches_removed(value: Any) -> Any:
    """A document of the daemon's, such as of `list`, with every `match` in it shown so."""
    if isinstance(value, Mapping):
        return {key: match(one) if key == "match" else matches_removed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [matches_removed(one) for one in value]
    return value


def pod(given: Mapping[str, Any]) -> dict[str, Any]:
    """A pod of ours: where it runs and how it is; neither environment nor arguments."""
    status = given.get("status") or {}
    return {
        "metadata": {**_metadata(given), "labels": given.get("metadata", {}).get("labels")},
        "node": (given.get("spec") or {}).get("nodeName"),
        "phase": status.get("phase"),
        "reason": status.get("reason"),
        "message": status.get("message"),
        "conditions": status.get("conditions"),
        "containers": [_some(one, _CONTAINER) for one in status.get("containerStatuses") or []],
    }


def node(given: Mapping[str, Any]) -> dict[str, Any]:
    """A node: what it runs on, and how it is."""
    status = given.get("status") or {}
    return {
        "metadata": _metadata(given),
        "info": _some(status.get("nodeInfo"), _NODE),
        "conditions": status.get("conditions"),
        "unschedulable": bool((given.get("spec") or {}).get("unschedulable")),
    }


def event(given: Mapping[str, Any]) -> dict[str, Any]:
    """An Event."""
    return {"about": _some(given.get("involvedObject"), ("kind", "name")), **_some(given, _EVENT)}


def kubeconfig(context: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """How a cluster is reached; of the user only which kinds of proof there are."""
    cluster, user = config["cluster"], config["user"]
    plugin = user.get("exec")
    return {
        "context": context,
        "files": config["files"],
        "namespace": config["namespace"],
        "cluster": {
            **_some(cluster, ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")),
            "hasCertificateAuthority": any(name.startswith("certificate-authority") for name in cluster),
        },
        "user": {
            "has": sorted(name for name in user if name not in ("as", "as-groups", "as-uid")),
            "plugin": plugin.get("command") if isinstance(plugin, Mapping) else None,
            "impersonates": "as" in user,
        },
    }


def _metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    return _some(given.get("metadata"), _METADATA)


def _some(given: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given} if isinstance(given, Mapping) else {}
