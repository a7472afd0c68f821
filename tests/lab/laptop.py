"""What a person does at the laptop of the lab, and what the outside user then sees."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.namespaces import Namespace
from tproxy.lab.layout import NETNS
from tproxy.netns.handle import Netns

TPROXY = ("python", "-c", "from tproxy_cli.main import main; main()")
FALLBACK_SECONDS = 7.0
"""How long clients may wait for the app after the laptop fell silent."""

each_backend = pytest.mark.parametrize("where", ["lab", "other_lab"], ids=["sk_lookup", "tproxy"], indirect=True)
"""Runs a test that is `where` in both labs, which steer differently."""


class Laptop:
    """A person who intercepts a Deployment `web` with a local app on port 3000."""

    def __init__(self, lab: Any, namespace: str) -> None:
        self.lab = lab
        self.namespace = namespace
        directory = Path(lab.layout.laptop_environment["XDG_RUNTIME_DIR"]) / "tproxy"
        self.lock, self.log = directory / "daemon.lock", Path(lab.layout.laptop_environment["XDG_STATE_HOME"])

    def tproxy(self, *arguments: str, check: bool = True) -> Any:
        return self.lab.exec("laptop", *TPROXY, *arguments, check=check)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.tproxy(*arguments, "-o", "json").stdout)

    def intercept(self, *arguments: str, port: str = "3000") -> Any:
        return self.json("intercept", "web", "-p", port, "-n", self.namespace, *arguments)

    def leave(self) -> None:
        self.tproxy("leave", "web", "-n", self.namespace)

    def pid(self) -> int:
        return int(self.lock.read_text())

    def url(self, family: str = "") -> str:
        """The Service's, by name."""
        return f"http://web.{self.namespace}.svc.cluster.local/"

    def seen(self, *options: str, url: str = "") -> str:
        """Who answers the outside user: laptop, pod, or what else comes."""
        asked = ("curl", "-sg", "--max-time", "10", *options, url or self.url())
        answer: str = self.lab.exec("user", *asked, check=False).stdout
        return "laptop" if answer.startswith("laptop") else "pod" if answer.startswith("web-") else answer

    def wait_seen(self, who: str, seconds: float = 10.0) -> float:
        """Wait until `who` answers; how long that took."""
        began = time.monotonic()
        self.lab.wait(lambda: self.seen() == who, f"an answer by the {who}", seconds)
        return time.monotonic() - began

    def pods(self) -> list[Any]:
        """The records of the intercepted Deployment's pods, by node."""
        return sorted(self.lab.pods(self.namespace, "web-"), key=lambda pod: str(pod["node"]))

    def daemon(self, node: str) -> int:
        """The process of a node's daemon."""
        return next(int(one["daemon"]["pid"]) for one in self.lab.status()["nodes"] if one["name"] == node)

    def metric(self, node: str, line: str) -> float:
        """A figure of a node daemon, as a scraper gets it."""
        daemon = next(pod for pod in self.lab.pods("tproxy-system") if pod["node"] == node)
        url = f"http://{daemon['addresses'][0]}:4771/metrics"
        text = self.lab.exec(f"node/{node}", "curl", "-sS", "--max-time", "5", url).stdout
        found = [one for one in text.splitlines() if one.startswith(f"{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


def network(netns: str) -> Namespace:
    """A network namespace of the lab, to look at and to make sockets in; the caller closes its `netns`."""
    return Namespace(netns, Netns.open(NETNS / netns))


def local_app(lab: Any, command: Sequence[str], ready: Callable[[], bool], name: str = "laptop") -> Any:
    """Start an app on the laptop and wait until it serves; the caller terminates it."""
    app = lab.start("exec", "laptop", "--", "env", f"POD={name}", "python", *command)
    try:
        lab.wait(ready, "the local app")
    except BaseException:
        app.terminate()
        app.wait(10)
        raise
    return app
