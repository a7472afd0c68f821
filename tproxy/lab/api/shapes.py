"""The shape of built-in kinds, as far as anything in the lab relies on it.

A real server decodes these objects into typed structures. Here the same check that custom resources get keeps nonsense
out, so that whoever reads the store need not doubt what it finds. Fields that are not named here are kept unchecked.
"""

from collections.abc import Mapping
from typing import Any

from tproxy.kube.port import CONFIGMAPS, DEPLOYMENTS, ENDPOINTSLICES, NODES, PODS, SECRETS, SERVICES, Resource

Shape = dict[str, Any]

_TEXT: Shape = {"type": "string"}
_PORT: Shape = {"type": "integer", "minimum": 1, "maximum": 65535}


def _object(required: str = "", **properties: Shape) -> Shape:
    return {"type": "object", "required": required.split(), "properties": properties}


def _list(items: Shape, minimum: int = 0) -> Shape:
    return {"type": "array", "items": items, "minItems": minimum}


_TEXTS: Shape = {"type": "object", "additionalProperties": _TEXT}

_OWNER = _object("apiVersion kind name uid", apiVersion=_TEXT, kind=_TEXT, name=_TEXT, uid=_TEXT)
METADATA: Shape = _object(
    labels=_TEXTS, annotations=_TEXTS, finalizers=_list(_TEXT), ownerReferences=_list(_OWNER), generateName=_TEXT
)

_CONDITIONS = _list(_object("type status", type=_TEXT, status=_TEXT))
_CONTAINER_STATUS = _object(
    "name",
    name=_TEXT,
    ready={"type": "boolean"},
    restartCount={"type": "integer"},
    state={"type": "object", "additionalProperties": _object(reason=_TEXT)},
)
_CONTAINER_PORT = _object(
    "containerPort", containerPort=_PORT, name=_TEXT, protocol={"type": "string", "enum": ["TCP", "UDP", "SCTP"]}
)
_MOUNTS = _list(_object("name mountPath", name=_TEXT, mountPath=_TEXT, subPath=_TEXT))
_POD_SPEC = _object(
    "containers",
    containers=_list(_object("name", name=_TEXT, ports=_list(_CONTAINER_PORT), volumeMounts=_MOUNTS), minimum=1),
    nodeName=_TEXT,
    nodeSelector=_TEXTS,
    volumes=_list(_object("name", name=_TEXT)),
    terminationGracePeriodSeconds={"type": "integer", "minimum": 0},
)
_SERVICE_PORT = _object(
    "port", port=_PORT, name=_TEXT, protocol=_TEXT, nodePort=_PORT, targetPort={"x-kubernetes-int-or-string": True}
)

SHAPES: Mapping[Resource, Shape] = {
    PODS: _object(
        "spec",
        spec=_POD_SPEC,
        status=_object(
            phase=_TEXT,
            podIP=_TEXT,
            podIPs=_list(_object("ip", ip=_TEXT)),
            conditions=_CONDITIONS,
            containerStatuses=_list(_CONTAINER_STATUS),
        ),
    ),
    DEPLOYMENTS: _object(
        "spec",
        spec=_object(
            "selector template",
            replicas={"type": "integer", "minimum": 0},
            selector=_object("matchLabels", matchLabels=_TEXTS | {"minProperties": 1}),
            template=_object("metadata spec", metadata=METADATA, spec=_POD_SPEC),
            strategy=_object(type=_TEXT),
        ),
        status=_object(conditions=_CONDITIONS),
    ),
    SERVICES: _object(
        "spec",
        spec=_object(
            "type",
            type=_TEXT,
            ports=_list(_SERVICE_PORT),
            selector=_TEXTS,
            clusterIP=_TEXT,
            clusterIPs=_list(_TEXT),
            ipFamilies=_list({"type": "string", "enum": ["IPv4", "IPv6"]}),
        ),
    ),
    ENDPOINTSLICES: _object(
        "addressType",
        addressType={"type": "string", "enum": ["IPv4", "IPv6", "FQDN"]},
        endpoints=_list(_object("addresses", addresses=_list(_TEXT, minimum=1), conditions=_object())),
        ports=_list(_object(port=_PORT, name=_TEXT, protocol=_TEXT)),
    ),
    NODES: _object(
        spec=_object(),
        status=_object(
            addresses=_list(_object("type address", type=_TEXT, address=_TEXT)),
            conditions=_CONDITIONS,
            nodeInfo=_object(),
        ),
    ),
    CONFIGMAPS: _object(data=_TEXTS, binaryData=_TEXTS),
    SECRETS: _object(data=_TEXTS, stringData=_TEXTS, type=_TEXT),
}
