"""A store as the lab server has it, with a custom kind of its own."""

import pytest

from tproxy.kube.port import INTERCEPTS
from tproxy.lab.api import admission
from tproxy.lab.api.resources import Kind, builtin_kinds
from tproxy.lab.api.store import Store

SCHEMA = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["target"],
            "properties": {
                "target": {
                    "type": "object",
                    "required": ["kind", "name"],
                    "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "target is immutable"}],
                    "properties": {
                        "kind": {"type": "string"},
                        "name": {"type": "string", "maxLength": 10, "pattern": "^[a-z]+$"},
                    },
                },
                "ports": {
                    "type": "array",
                    "maxItems": 2,
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "properties": {
                            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                            "protocol": {"type": "string", "enum": ["TCP"], "default": "TCP"},
                        },
                    },
                },
                "onDisconnect": {"type": "string", "enum": ["fallback", "fail"], "default": "fallback"},
            },
        },
        "status": {
            "type": "object",
            "properties": {"nodes": {"type": "object", "additionalProperties": {"type": "object"}}},
        },
    },
}


@pytest.fixture
def store() -> Store:
    """A store with all admission and three namespaces, that remembers only 8 changes of each kind."""
    made = Store([*builtin_kinds(), Kind(INTERCEPTS, status=True, schema=SCHEMA)], history=8)
    admission.install(made)
    return made
