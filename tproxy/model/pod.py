"""Pods and Services, as much of them as steering and port lookup need."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from tproxy.model.fields import Fields

_MAX_CONTAINERS = 512
_MAX_PORTS = 4096
_MAX_PORT_NUMBER = 65535
_MAX_MOUNTS = 1024
_GIVEN = ("configMap", "secret", "projected", "downwardAPI")
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
"""The annotation that says which container kubectl means when nobody says."""


@dataclass(frozen=True, slots=True)
class OwnerRef:
    """An entry of `metadata.ownerReferences`."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A port that a container declares; `name` may be empty."""

    name: str
    number: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Container:
    """A container that runs beside the others: an ordinary one or a sidecar (restartable init container).

    `id` is the running one's, without its scheme; empty while there is none. `given` are the paths at which volumes
    are mounted that the kubelet fills: from ConfigMaps, Secrets, the pod's own fields, service account tokens.
    """

    name: str
    ports: tuple[ContainerPort, ...] = ()
    id: str = ""
    given: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod. `addresses` are its numeric IPs, `phase` is `status.phase`, `ready` its Ready condition.

    `container_ids` are those of its containers now, without their scheme; `config_hash` is what a static pod's cgroup
    is called by instead of the UID; `default_container` is the annotated one, or empty.
    """

    namespace: str
    name: str
    uid: str
    node: str = ""
    phase: str = ""
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    runtime_class: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    owners: tuple[OwnerRef, ...] = ()
    containers: tuple[Container, ...] = ()
    ready: bool = False
    deleting: bool = False
    container_ids: tuple[str, ...] = ()
    config_hash: str = ""
    default_container: str = ""

    @property
    def running(self) -> bool:
        """Whether it has processes that are meant to stay."""
        return self.phase == "Running" and not self.deleting

    @classmethod
    def from_object(cls, obj: object) -> "Pod":
        """Parse what the API server sent; `InvalidError` on anything that is no Pod."""
        fields = Fields.of_object(obj, "Pod")
        metadata, spec, status = fields.part("metadata"), fields.part("spec"), fields.optional("status")
        annotations = metadata.optional("annotations")
        sidecars = [
            item for item in spec.parts("initContainers", _MAX_CONTAINERS) if item.text("restartPolicy", "") == "Always"
        ]
        statuses = [
            item
            for kind in ("containerStatuses", "initContainerStatuses")
            for item in status.parts(kind, _MAX_CONTAINERS)
            if "containerID" in item
        ]
        ids = {item.text("name", ""): item.text("containerID").rpartition("://")[2] for item in statuses}
        given = {item.text("name", "") for item in spec.parts("volumes", _MAX_MOUNTS) if any(k in item for k in _GIVEN)}
        return cls(
            namespace=metadata.name("namespace"),
            name=metadata.name("name"),
            uid=metadata.text("uid"),
            node=spec.text("nodeName", ""),
            phase=status.text("phase", ""),
            addresses=_addresses(status),
            host_network=spec.flag("hostNetwork"),
            runtime_class=spec.text("runtimeClassName", ""),
            labels=metadata.texts("labels"),
            owners=owners(metadata),
            containers=tuple(
                _container(item, ids, given) for item in (*spec.parts("containers", _MAX_CONTAINERS), *sidecars)
            ),
            ready=any(
                item.text("type") == "Ready" and item.text("status") == "True"
                for item in status.parts("conditions", 1024)
            ),
            deleting="deletionTimestamp" in metadata,
            container_ids=tuple(
                item.text("containerID").rpartition("://")[2]
                for item in status.parts("containerStatuses", _MAX_CONTAINERS)
                if "containerID" in item
            ),
            config_hash=annotations.text("kubernetes.io/config.hash", ""),
            default_container=annotations.text(DEFAULT_CONTAINER, ""),
        )


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service; `target` is the pod's port by number or by the name of a container port."""

    name: str
    port: int
    target: int | str
    protocol: str = "TCP"
    app_protocol: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A Service; an empty `selector` selects nothing."""

    namespace: str
    name: str
    selector: Mapping[str, str]
    ports: tuple[ServicePort, ...] = ()
    headless: bool = False

    @classmethod
    def from_object(cls, obj: object) -> "Service":
        """Parse what the API server sent; `InvalidError` on anything that is no Service."""
        fields = Fields.of_object(obj, "Service")
        metadata, spec = fields.part("metadata"), fields.part("spec")
        return cls(
            namespace=metadata.name("namespace"),
            name=metadata.name("name"),
            selector=spec.texts("selector"),
            ports=tuple(_service_port(item) for item in spec.parts("ports", _MAX_PORTS)),
            headless=spec.text("clusterIP", "") == "None",
        )

    def selects(self, pod: Pod) -> bool:
        """Whether `pod` is a backend by namespace and labels (ready or not)."""
        return pod.namespace == self.namespace and labels_match(self.selector, pod.labels)


def labels_match(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether `labels` have every pair of a Service's `selector`; an empty selector matches nothing."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def owners(metadata: Fields) -> tuple[OwnerRef, ...]:
    """The owner references of any object, given its metadata."""
    return tuple(
        OwnerRef(
            api_version=item.text("apiVersion"),
            kind=item.text("kind"),
            name=item.text("name"),
            uid=item.text("uid"),
            controller=item.flag("controller"),
        )
        for item in metadata.parts("ownerReferences", 64)
    )


def _addresses(status: Fields) -> tuple[str, ...]:
    listed = tuple(item.text("ip", limit=64) for item in status.parts("podIPs", 16) if "ip" in item)
    return listed or ((status.text("podIP", limit=64),) if "podIP" in status else ())


def _container(fields: Fields, ids: Mapping[str, str], given: Collection[str]) -> Container:
    ports = tuple(
        ContainerPort(
            name=item.text("name", ""),
            number=item.number("containerPort", 1, _MAX_PORT_NUMBER),
            protocol=item.text("protocol", "TCP"),
        )
        for item in fields.parts("ports", _MAX_PORTS)
    )
    name = fields.text("name")
    mounts = fields.parts("volumeMounts", _MAX_MOUNTS)
    paths = tuple(item.text("mountPath") for item in mounts if item.text("name", "") in given)
    return Container(name, ports, ids.get(name, ""), paths)


def _service_port(fields: Fields) -> ServicePort:
    port = fields.number("port", 1, _MAX_PORT_NUMBER)
    return ServicePort(
        name=fields.text("name", ""),
        port=port,
        target=fields.number_or_text("targetPort", 0, _MAX_PORT_NUMBER, default=port) or port,
        protocol=fields.text("protocol", "TCP"),
        app_protocol=fields.text("appProtocol", ""),
    )
