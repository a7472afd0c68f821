"""The namespace `shop` as the outside user and the API see it."""

import json
from typing import Any

from tests.e2e.cluster import Cluster
from tests.e2e.person import wait

NAMESPACE = "shop"


class Pods:
    """Pods with a label `app`, and who answers in their place."""

    def __init__(self, cluster: Cluster, app: str) -> None:
        self._cluster, self.app = cluster, app

    def listed(self) -> list[Any]:
        """Those that run and are not about to end."""
        query = ("get", "pods", "-n", NAMESPACE, "-l", f"app={self.app}", "-o", "json")
        found = json.loads(self._cluster.kubectl(*query))["items"]
        return [
            pod for pod in found if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]

    def identities(self) -> dict[str, tuple[str, int]]:
        """UID and restarts by name."""
        return {
            pod["metadata"]["name"]: (
                pod["metadata"]["uid"],
                sum(container["restartCount"] for container in pod["status"].get("containerStatuses", [])),
            )
            for pod in self.listed()
        }

    def answers(self, port: int = 8080) -> dict[str, str]:
        """Who answers the user at each pod's own address, by pod."""
        return {pod["metadata"]["name"]: self.ask(pod["status"]["podIP"], port) for pod in self.listed()}

    def ask(self, host: str, port: int) -> str:
        """Who answers the user there; empty if nobody."""
        asked = ("curl", "-s", "--max-time", "8", f"http://{host}:{port}/")
        answer = self._cluster.user.run(*asked, check=False).stdout.split()
        return str(answer[0]) if answer else ""

    def all_answer(self, who: str, port: int = 8080) -> bool:
        """Whether there are pods, and `who` answers at every one of them."""
        found = self.answers(port)
        return bool(found) and set(found.values()) == {who}

    def themselves(self, port: int = 8080) -> bool:
        """Whether there are pods, and every one answers for itself."""
        found = self.answers(port)
        return bool(found) and all(name == who for name, who in found.items())

    def wait_ready(self, count: int) -> None:
        """Wait until `count` pods of it are ready."""

        def ready() -> bool:
            conditions = [{one["type"]: one["status"] for one in pod["status"]["conditions"]} for pod in self.listed()]
            return [one["Ready"] for one in conditions] == ["True"] * count

        wait(ready, f"{count} ready pods of {self.app}", 120)
