"""The same header routing as a personal intercept's, by one HAProxy in the pod: the yardstick for `personal.py`."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

PORT = 8090
HEADER = "x-user: ada"

CONFIG = """
global
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse safe
frontend front
    bind :{port}
    use_backend laptop if {{ req.hdr(x-user) -m str ada }}
    default_backend app
backend app
    server app 127.0.0.1:{app}
backend laptop
    server laptop 127.0.0.1:{laptop}
"""


@contextlib.contextmanager
def routing(enter: Sequence[str | Path], place: str, app: int, laptop: int, directory: Path) -> Iterator[None]:
    """Route at `PORT` in the pod: to its own port `app`, and what has the header to its own port `laptop`."""
    config = directory / "router.cfg"
    config.write_text(CONFIG.format(port=PORT, app=app, laptop=laptop))
    process = subprocess.Popen([*enter, place, "--", "haproxy", "-db", "-f", config], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
