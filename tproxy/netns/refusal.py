"""Pods whose traffic cannot be steered, and why. Pure."""

from dataclasses import dataclass

# Parts of RuntimeClass names, which clusters choose freely but call after the runtime.
_SANDBOXES = {
    "gvisor": "gVisor",
    "runsc": "gVisor",
    "kata": "Kata Containers",
    "firecracker": "Firecracker",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """`reason` for programs, in CamelCase; `message` for people, a sentence without a final stop."""

    reason: str
    message: str


def refusal(host_network: bool, runtime_class: str) -> Refusal | None:
    """Why a pod with this spec is left alone, None if it can be steered.

    `runtime_class` is `spec.runtimeClassName`, or empty.
    """
    if host_network:
        return Refusal(
            "HostNetwork", "the pod uses its node's network, where steering would take the port of the whole node"
        )
    for part, sandbox in _SANDBOXES.items():
        if part in runtime_class.lower():
            return Refusal(
                "SandboxedRuntime",
                f"the pod's runtime class `{runtime_class}` looks like {sandbox}, which has a network stack of its own"
                " that the node's kernel does not see",
            )
    return None
