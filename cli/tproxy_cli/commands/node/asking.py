"""What the commands of `tproxy node` share: which nodes there are, and asking one."""

from typing import Any

from tproxy_cli.client import Json
from tproxy_cli.options import daemon
from tproxy_cli.ui.console import Console


def ask(console: Console, cluster: Json, node: str, question: str, arguments: Json | None = None) -> list[Json]:
    """A whole answer; without `node`, of the one that has the pod of the arguments. Raises TproxyError."""
    body = {"cluster": cluster, "node": node, "question": question, "arguments": arguments or {}}
    return [dict(one) for one in daemon(console).ask(body) if not isinstance(one, bytes)]


def nodes(console: Console, cluster: Json) -> list[dict[str, Any]]:
    """The node daemons, as the cluster has them. Raises TproxyError."""
    found: list[dict[str, Any]] = daemon(console).call("/v1/nodes", {"cluster": cluster}, start=True)["nodes"]
    return found
