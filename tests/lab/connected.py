"""The laptop of the lab, connected host-wide, and servers of more kinds for it to reach."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kernel.connecting import helpers
from tests.kernel.namespaces import Namespace
from tests.lab.laptop import Laptop, network

SERVERS = Path(__file__).with_name("servers.py")

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: servers}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: servers}}}}
  template:
    metadata: {{labels: {{app: servers}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: servers
        command: [python, {server}]
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: servers}}
spec:
  selector: {{app: servers}}
  ipFamilyPolicy: PreferDualStack
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: four, port: 81, targetPort: 8081}}
  - {{name: echo, port: 7, targetPort: 7007, protocol: UDP}}
  - {{name: nobody, port: 9, targetPort: 9}}
---
apiVersion: v1
kind: Service
metadata: {{name: headless}}
spec:
  selector: {{app: servers}}
  clusterIP: None
  ports: [{{name: http, port: 8080}}]
"""


class Connected(Laptop):
    """A person at the laptop who connects it to the namespace with the servers."""

    def __init__(self, lab: Any, namespace: str) -> None:
        super().__init__(lab, namespace)
        self.here: Namespace = network(lab.layout.netns("laptop"))
        # The tables are there for good once anybody has looked; it is the rules in them that count.
        self.here.state()
        self.before = self.here.state()

    def connect(self, *arguments: str) -> Any:
        return self.json("connect", "-n", self.namespace, *arguments)

    def run(self, *command: str, check: bool = True) -> str:
        return str(self.lab.exec("laptop", *command, check=check).stdout)

    def get(self, url: str, *options: str) -> str:
        return self.run("curl", "-sg", "--max-time", "10", *options, url, check=False)

    def dig(self, *words: str) -> list[str]:
        return self.run("dig", "+short", "+time=3", "+tries=2", *words, check=False).split("\n")[:-1]

    def address(self, service: str, family: int = 0) -> str:
        """A ClusterIP."""
        from tproxy.kube.port import SERVICES

        found = self.lab.client.get(SERVICES, service, self.namespace)["spec"]["clusterIPs"]
        return str(sorted(found, key=lambda one: ":" in one)[family])

    def helpers(self) -> list[int]:
        """The root helper's processes, oldest first."""
        return helpers(self.here)

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def as_before(self) -> bool:
        """Whether nothing is left: no rule, route, set, link or process."""
        return not self.left()

    def left(self) -> dict[str, Any]:
        """What is."""
        state = self.here.state()
        changed = {what: text for what, text in state.items() if text != self.before[what]}
        return changed | ({"helpers": found} if (found := self.helpers()) else {})

    def close(self) -> None:
        self.tproxy("quit", check=False)
        self.here.netns.close()


@contextlib.contextmanager
def connected(lab: Any, namespace: str) -> Iterator[Connected]:
    """The laptop, with the servers in the cluster; not connected yet."""
    lab.apply(MANIFESTS.format(server=json.dumps(str(SERVERS))), namespace)
    one = Connected(lab, namespace)
    try:
        yield one
    finally:
        one.close()
