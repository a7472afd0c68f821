"""The steering backends, which share one suite of tests."""

from collections.abc import Callable, Mapping

from tests.kernel.namespaces import Namespace
from tproxy.steer.iptables import Tproxy
from tproxy.steer.port import Steering
from tproxy.steer.sk_lookup import SkLookup

BACKENDS: Mapping[str, Callable[[], Steering]] = {"sk_lookup": SkLookup, "tproxy": Tproxy}


def attachments_in(namespace: Namespace) -> int:
    """How many there are as the kernel sees it, of either backend."""
    state = namespace.state()
    return state["links"].count("sk_lookup") + state["iptables-legacy-save"].count(":tproxy-")
