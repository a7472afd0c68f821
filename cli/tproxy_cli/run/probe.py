"""Whether this machine can do what a run needs, found out by doing it; what is made goes again at once."""

import os
from dataclasses import dataclass

from tproxy.errors import TproxyError
from tproxy_cli.run import inside, packets, restricted

SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Capability:
    """What came of it: `trouble` if a run is not possible, and whether connections can be refused as they should."""

    trouble: TproxyError | None
    asks: bool = False
    families: int = 0


def probe() -> Capability:
    """Try it. Takes as long as a run takes to begin."""
    ours, theirs = packets.pair()
    factory, _factory = packets.pair()
    with ours, theirs, factory, _factory:
        pid = os.fork()
        if not pid:
            inside.become((theirs, factory), "")
        theirs.close()
        ours.settimeout(SECONDS)
        try:
            received = packets.receive(ours)
        except (OSError, ValueError):
            received = None
        ours.close()
        os.waitpid(pid, 0)
    if received is None:
        return Capability(TproxyError("the process that was to make namespaces has ended", "run it again with `-v`"))
    message, descriptors = received
    packets.close(descriptors)
    if "error" in message:
        return Capability(restricted.explain(message["error"]["step"], message["error"]["errno"]))
    return Capability(None, message["asks"], sum(name.startswith("tcp") for name in message["sockets"]))
