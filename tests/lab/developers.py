"""Two developers at the same workload: each has a laptop daemon, a local app, and a header of her own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab.laptop import TPROXY, Laptop, local_app
from tests.lab.scene import PORT

WHO = Path(__file__).with_name("who.py")

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        command: [python, {who}, --port, "{port}"]
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{name: http, containerPort: {port}}}]
        readinessProbe: {{httpGet: {{port: http, path: /}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"""


class Developer(Laptop):
    """`name` is what her app calls itself, and the value of her header. Daemons of their own make them two people."""

    app: Any

    def __init__(self, lab: Any, namespace: str, name: str, port: int) -> None:
        super().__init__(lab, namespace)
        self.name = name
        self.port = port
        home = lab.layout.place_directory("laptop") / name
        variables = {"XDG_RUNTIME_DIR": home / "run", "XDG_STATE_HOME": home / "state", "XDG_CONFIG_HOME": home}
        self._as = ("env", *(f"{variable}={path}" for variable, path in variables.items()))
        self.lock = home / "run" / "tproxy" / "daemon.lock"
        for path in variables.values():
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def tproxy(self, *arguments: str, check: bool = True) -> Any:
        return self.lab.exec("laptop", *self._as, *TPROXY, *arguments, check=check)

    def begin(self, *arguments: str) -> Any:
        """Intercept what has her header."""
        asked = arguments or ("--http-header", f"x-user={self.name}")
        return self.intercept(*asked, port=f"{self.port}:{PORT}")

    def end(self) -> None:
        self.tproxy("leave", "--all", "-n", self.namespace, check=False)

    def start_app(self) -> None:
        url = f"http://127.0.0.1:{self.port}/"

        def serves() -> bool:
            return bool(self.lab.exec("laptop", "curl", "-s", url, check=False).returncode == 0)

        self.app = local_app(self.lab, [str(WHO), "--port", str(self.port)], serves, self.name)

    def stop_app(self) -> None:
        self.app.terminate()
        self.app.wait(10)


@contextlib.contextmanager
def developers(lab: Any, namespace: str) -> Iterator[tuple[Developer, Developer]]:
    """Ada and Eve, whose apps run; they intercept nothing yet."""
    lab.apply(MANIFEST.format(who=WHO, port=PORT), namespace)
    both = Developer(lab, namespace, "ada", 3911), Developer(lab, namespace, "eve", 3912)
    try:
        for one in both:
            one.start_app()
        yield both
    finally:
        for one in both:
            one.tproxy("quit", check=False)
            if hasattr(one, "app"):
                one.stop_app()
