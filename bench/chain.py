"""The yardstick for an intercept: the same path through three HAProxies, which only copy bytes.

An intercepted connection passes three processes before it reaches the laptop's app: the node daemon in the pod, the API
server with its port-forward, the laptop daemon. Here each of the three is a HAProxy in TCP mode at the same place.
Whatever this chain loses against a direct connection, the path costs, and no tunnel on it can be expected to keep.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tproxy.lab.addresses import LAPTOP, ROUTER

PORT = 9100

_CONFIG = """
global
  nbthread 1
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen chain
  bind :{port}
  server next {host}:{next}
"""


def configuration(host: str, port: int) -> str:
    """A HAProxy on `PORT` that passes connections on to `host` and `port`."""
    return _CONFIG.format(port=PORT, host=host, next=port)


@contextlib.contextmanager
def three_proxies(enter: Sequence[str | Path], pod: str, app: int, directory: Path) -> Iterator[None]:
    """Run them: in the place `pod`, at the router, on the laptop; the last one leads to the laptop's port `app`.

    `enter` is the command line of `tproxy lab exec` up to the place.
    """
    hops = {pod: (ROUTER[0], PORT), "router": (LAPTOP[0], PORT), "laptop": ("127.0.0.1", app)}
    running = []
    try:
        for number, (place, (host, port)) in enumerate(hops.items()):
            file = directory / f"haproxy-{number}.cfg"
            file.write_text(configuration(host, port))
            running.append(subprocess.Popen([*enter, place, "--", "haproxy", "-q", "-db", "-f", str(file)]))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(10)
