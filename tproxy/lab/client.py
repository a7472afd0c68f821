"""The lab's API server as the commands on the host reach it: HTTP over its unix socket, with the laptop's token.

Standard library only: `lab apply` is to start quickly.
"""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlencode

from tproxy.errors import ClusterError, InvalidError
from tproxy.kube.errors import NotFoundError
from tproxy.kube.port import Object, Resource
from tproxy.lab.layout import Layout

PATH = "/lab/api-server/{action}"
_TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 64 * 1024


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("lab", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Synchronous calls; each raises ClusterError (NotFoundError for 404, InvalidError for 400 and 422)."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._kinds: dict[str, Sequence[Resource]] = {}

    def resource_for(self, api_version: str, kind: str) -> Resource:
        """Where the lab serves a kind. Raises InvalidError, naming those it does, if it doesn't."""
        served = self._served(api_version)
        for resource in served:
            if resource.kind == kind:
                return resource
        others = ", ".join(sorted(resource.kind for resource in served)) or "none of that version"
        raise InvalidError(f"the lab does not serve {kind} of {api_version}", f"it serves {others}")

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Read one object."""
        return self._call("GET", path(resource, namespace, name))

    def list(self, resource: Resource, namespace: str = "", labels: str = "") -> Sequence[Object]:
        """All objects that match a label selector."""
        items: Sequence[Object] = self._call("GET", path(resource, namespace), query={"labelSelector": labels})["items"]
        return items

    def create(self, resource: Resource, body: Object, namespace: str = "") -> Object:
        """Create one object."""
        return self._call("POST", path(resource, namespace), body)

    def patch(self, resource: Resource, name: str, body: Object, namespace: str = "") -> Object:
        """JSON merge patch."""
        return self._call("PATCH", path(resource, namespace, name), body)

    def delete(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Delete one object."""
        return self._call("DELETE", path(resource, namespace, name))

    def tell_api_server(self, action: str) -> None:
        """`start`, `stop`, or `forget` the history of changes; commands on the host reach it all the same."""
        self._call("POST", PATH.format(action=action))

    def logs(self, namespace: str, pod: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """A container's log as it comes; `query` as in the Kubernetes API."""
        where = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        timeout = None if query.get("follow") else _TIMEOUT_SECONDS
        with self._request("GET", where, None, query, timeout) as response:
            while chunk := response.read1(_CHUNK_BYTES):
                yield chunk

    def _served(self, api_version: str) -> Sequence[Resource]:
        if api_version not in self._kinds:
            group, _, version = api_version.rpartition("/")
            try:
                found = self._call("GET", f"/apis/{api_version}" if group else f"/api/{api_version}")["resources"]
            except NotFoundError:
                found = []
            self._kinds[api_version] = [
                Resource(group, version, one["name"], one["kind"], one["namespaced"])
                for one in found
                if "/" not in one["name"]
            ]
        return self._kinds[api_version]

    def _call(
        self, method: str, where: str, body: Object | None = None, query: Mapping[str, str] | None = None
    ) -> Object:
        with self._request(method, where, body, query or {}, _TIMEOUT_SECONDS) as response:
            answer: Object = json.loads(response.read())
        return answer

    @contextlib.contextmanager
    def _request(
        self, method: str, where: str, body: Object | None, query: Mapping[str, str], timeout: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._token()}", "Content-Type": kind}
        used = {name: value for name, value in query.items() if value}
        target = where + (f"?{urlencode(used)}" if used else "")
        connection = _UnixConnection(str(self._layout.api_socket), timeout)
        with contextlib.closing(connection):
            try:
                connection.request(method, target, json.dumps(body) if body is not None else None, headers)
                response = connection.getresponse()
            except OSError as error:
                raise ClusterError(
                    f"the API server of the lab {self._layout.name!r} does not answer: {error}"
                ) from error
            with response:
                if response.status >= 400:
                    raise _failure(response)
                yield response

    def _token(self) -> str:
        try:
            config = json.loads(self._layout.laptop_kubeconfig.read_text())
        except OSError as error:
            raise ClusterError(
                f"the lab {self._layout.name!r} is not up", f"`tproxy lab up{self._layout.option}`"
            ) from error
        token: str = config["users"][0]["user"]["token"]
        return token


def path(resource: Resource, namespace: str = "", name: str = "") -> str:
    """The URL path of an object or collection."""
    root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
    inside = f"/namespaces/{namespace}" if resource.namespaced and namespace else ""
    return f"{root}{inside}/{resource.plural}" + (f"/{name}" if name else "")


def _failure(response: http.client.HTTPResponse) -> ClusterError | InvalidError:
    text = response.read(_CHUNK_BYTES).decode(errors="replace")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status}: {text[:256]}"
    if response.status == 404:
        return NotFoundError(message)
    return InvalidError(message) if response.status in (400, 422) else ClusterError(message)
