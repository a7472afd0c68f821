"""Answers of the API server that callers tell apart, and how they come about."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tproxy.errors import ClusterError, DeniedError, InvalidError, TproxyError
from tproxy.kube.port import Resource

_TEXT_LIMIT = 512
_MISSING_VERB = re.compile(r"cannot ([a-z]+) resource")


class NotFoundError(ClusterError):
    """The object does not exist (404)."""


class AlreadyExistsError(ClusterError):
    """An object of that name exists (409 AlreadyExists)."""


class StaleError(ClusterError):
    """The object has changed, or is another one by now (409 Conflict)."""


class ExpiredError(ClusterError):
    """The API server no longer remembers that far back (410): list again."""


class OverloadedError(ClusterError):
    """The API server asks to come back later (429)."""


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked of the API server, in the words of RBAC, for errors to name."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @classmethod
    def on(cls, verb: str, resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> "Call":
        """A call on objects of `resource`."""
        return cls(verb, resource.plural, resource.group, namespace if resource.namespaced else "", name, subresource)

    @property
    def kind(self) -> str:
        """`pods`, `deployments.apps`, `pods/portforward`."""
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{kind}/{self.subresource}" if self.subresource else kind

    @property
    def place(self) -> str:
        """` in namespace "shop"`, or nothing for cluster-wide calls."""
        return f' in namespace "{self.namespace}"' if self.namespace else ""


def error_for(status: int, body: bytes, call: Call, server: str) -> TproxyError:
    """The error that an unsuccessful HTTP answer means."""
    said = _status_object(body)
    reason = str(said.get("reason", ""))
    message = str(said.get("message", ""))[:_TEXT_LIMIT] or _first_line(body)
    if status == 401:
        return DeniedError(
            f"the API server {server} does not accept the credentials",
            hint="log in again, then see what `kubectl auth whoami` says",
        )
    if status == 403:
        return _denied(call, message)
    if status == 404:
        return _not_found(call, said, message)
    if status == 409:
        if reason == "AlreadyExists":
            return AlreadyExistsError(message)
        return StaleError(message)
    if status == 410:
        return ExpiredError(message or "the resource version is too old")
    if status == 429:
        return OverloadedError(f"the API server {server} is overloaded: {message}", hint="try again in a moment")
    if status in (400, 413, 415, 422):
        return InvalidError(f"the API server refused to {call.verb} {call.kind}: {message}")
    return ClusterError(
        f"the API server {server} failed to {call.verb} {call.kind}{call.place}: {status} {message}".rstrip(),
        hint="see what `kubectl get --raw /readyz` says",
    )


def _denied(call: Call, message: str) -> DeniedError:
    if (missing := _MISSING_VERB.search(message)) is not None:
        # Not always the verb of the request: since 1.35 a WebSocket takes `create` as well as `get`.
        call = replace(call, verb=missing[1])
    kind = f"{call.resource}.{call.group}" if call.group else call.resource
    check = f"kubectl auth can-i {call.verb} {kind}"
    if call.subresource:
        check += f" --subresource={call.subresource}"
    check += f" -n {call.namespace}" if call.namespace else " --all-namespaces"
    # Denials by admission policies come as 403 too; their text is the only explanation there is.
    why = "" if not message or missing is not None else f": {message}"
    return DeniedError(
        f"you may not {call.verb} {call.kind}{call.place}{why}",
        hint=f"ask an administrator for this right; `{check}` shows whether you have it",
    )


def _not_found(call: Call, said: Mapping[str, Any], message: str) -> NotFoundError:
    details = said.get("details")
    named = isinstance(details, Mapping) and details.get("name")
    if not named and not call.name and call.group == "tproxy.dev":
        return NotFoundError(
            f"tproxy is not installed in the cluster: it does not serve {call.kind}",
            hint="ask an administrator to install the chart; `tproxy doctor` shows what is missing",
        )
    if named and message:
        return NotFoundError(message)
    if call.name:
        return NotFoundError(f'{call.kind} "{call.name}" not found{call.place}')
    return NotFoundError(f"the cluster does not serve {call.kind}{call.place}")


def _status_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _first_line(body: bytes) -> str:
    return body[:_TEXT_LIMIT].decode(errors="replace").strip().partition("\n")[0]
