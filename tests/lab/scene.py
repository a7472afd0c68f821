"""What the tests of what must hold share: a Deployment on both nodes, a bystander, an app on the laptop."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kernel.namespaces import Namespace
from tests.lab.laptop import Laptop, local_app, network

HERE = Path(__file__).parent
PORT, OTHER_PORT, LOCAL_PORT = 8080, 8081, 3900

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: {name}
        command: [python, {server}, --port, "{port}", --port, "{other}"]
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{name: http, containerPort: {port}}}, {{name: other, containerPort: {other}}}]
        readinessProbe: {{tcpSocket: {{port: other}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ipFamilyPolicy: PreferDualStack
  ports: [{{name: http, port: 80, targetPort: http}}, {{name: other, port: 81, targetPort: other}}]
---
"""


def deployment(name: str, replicas: int) -> str:
    """Manifests of a Deployment of `many.py` and its Service."""
    server = json.dumps(str(HERE / "many.py"))
    return DEPLOYMENT.format(name=name, replicas=replicas, server=server, port=PORT, other=OTHER_PORT)


class Scene(Laptop):
    """The laptop's person, in a namespace with `web` (two pods) and `bystander` (one)."""

    def __init__(self, lab: Any, namespace: str) -> None:
        super().__init__(lab, namespace)
        self.outside: Namespace = network(lab.layout.netns("user"))

    def intercept(self, *arguments: str, port: str = f"{LOCAL_PORT}:{PORT}") -> Any:
        return super().intercept(*arguments, port=port)

    @contextlib.contextmanager
    def intercepted(self) -> Iterator[Any]:
        """Intercept, and leave in the end."""
        try:
            yield self.intercept()
        finally:
            self.tproxy("leave", "--all", "-n", self.namespace, check=False)

    def address(self, number: int = 0, family: int = 0) -> str:
        """Of one of the pods."""
        return str(self.pods()[number]["addresses"][family])

    @contextlib.contextmanager
    def inside(self, pod: Any) -> Iterator[Namespace]:
        """A pod's network, to look at."""
        one = network(pod["netns"])
        try:
            yield one
        finally:
            one.netns.close()


@contextlib.contextmanager
def playing(lab: Any, namespace: str) -> Iterator[Scene]:
    """The scene with all of its actors."""
    lab.apply(deployment("web", 2) + deployment("bystander", 1), namespace)
    one = Scene(lab, namespace)

    def serves() -> bool:
        url = f"http://127.0.0.1:{LOCAL_PORT}/"
        return lab.exec("laptop", "curl", "-s", url, check=False).returncode == 0

    app = local_app(lab, [str(HERE / "many.py"), "--port", str(LOCAL_PORT)], serves)
    try:
        yield one
    finally:
        one.tproxy("quit", check=False)
        one.outside.netns.close()
        app.terminate()
        app.wait(10)
