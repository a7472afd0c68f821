"""The demo's whole sequence on a real cluster: its own manifests, real pods, the chart installed by Helm.

What the workload is in the API stays the same to the last byte, and its pods are the ones from before.
"""

import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import EDGY_CORP, PAGE_PORT, Cluster
from tests.e2e.network import NODES
from tests.e2e.person import Person, wait

LOOKS = 6
SERVICE = "http://verylargejavaservice:8080/"
SUMMARY = "http://localhost:3000/summary"
WORKLOAD = "deployments,replicasets,pods,services,endpointslices,endpoints,configmaps,serviceaccounts"


class Shop:
    """Edgy Corp's application as the outside user and the API see it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def page(self, header: str = "") -> set[str]:
        """The colours on the page, asked several times: two pods answer, and both nodes hand on."""
        options = ["-H", header] if header else []
        urls = [f"http://{address}:{PAGE_PORT}/" for address in NODES.values()] * (LOOKS // 2)
        asked = self._cluster.user.run("curl", "-s", "--max-time", "5", *options, *urls, check=False).stdout
        found = re.findall(r'<strong id="color">(\w+)</strong>', asked)
        return set(found) | {"nothing"} if len(found) < LOOKS else set(found)

    def objects(self) -> str:
        """Everything of the workload, as `kubectl get -o yaml` prints it."""
        kinds = WORKLOAD
        return self._cluster.kubectl("get", kinds, "-n", "shop", "-o", "yaml", "--show-managed-fields")

    def pods(self) -> dict[str, tuple[str, int]]:
        """UID and restarts by name."""
        listed = json.loads(self._cluster.kubectl("get", "pods", "-n", "shop", "-o", "json"))["items"]
        return {
            pod["metadata"]["name"]: (
                pod["metadata"]["uid"],
                sum(container["restartCount"] for container in pod["status"]["containerStatuses"]),
            )
            for pod in listed
        }


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[Shop]:
    one = Shop(cluster)
    wait(lambda: one.page() == {"green"}, "a green page")
    before, pods = one.objects(), one.pods()
    assert len(pods) == 4
    yield one
    assert one.pods() == pods
    assert one.objects() == before


def test_connect_run_global_leave_personal_reload(shop: Shop, dora: Person, eve: Person) -> None:
    # Outbound: nothing, then one command of somebody without root, then every program.
    assert dora.get(SERVICE) == ""
    assert '<strong id="color">green' in eve.tproxy("run", "--", "curl", "-sS", "--max-time", "20", SERVICE).stdout
    assert dora.get(SERVICE) == ""
    dora.tproxy("connect")
    assert '<strong id="color">green' in dora.reach(SERVICE)
    assert '<strong id="color">green' in dora.reach("http://verylargejavaservice.shop.svc.cluster.local:8080/")

    # Global: a change is seen at once, and what the service needs is there.
    sources = dora.copy(EDGY_CORP)
    app = dora.start("app", "python", sources / "dataprocessingservice.py", "--reload")
    red = eve.start("app", "python", EDGY_CORP / "dataprocessingservice.py", "--port", "3001", COLOR="red")
    try:
        wait(lambda: dora.get("http://localhost:3000/color") == '"blue"', "the app on the laptop")
        dora.tproxy("intercept", "dataprocessingservice", "--port", "3000")
        assert shop.page() == {"blue"}
        assert json.loads(dora.reach(SUMMARY)) == {"customers": 3, "orders": 42}
        source = sources / "dataprocessingservice.py"
        dora.run("sed", "-i", 's/DEFAULT_COLOR = "blue"/DEFAULT_COLOR = "orange"/', source)
        wait(lambda: dora.get("http://localhost:3000/color") == '"orange"', "a reload")
        assert shop.page() == {"orange"}
        dora.tproxy("leave", "dataprocessingservice")
        assert shop.page() == {"green"}

        # Personal: two developers, and everybody else.
        dora.tproxy("intercept", "dataprocessingservice", "--port", "3000", "--http-header", "x-user=dora")
        wait(lambda: eve.get("http://localhost:3001/color") == '"red"', "the other app on the laptop")
        eve.tproxy("intercept", "dataprocessingservice", "--port", "3001:3000", "--http-header", "x-user=eve")
        seen = {header: shop.page(header) for header in ("x-user: dora", "x-user: eve", "")}
        assert seen == {"x-user: dora": {"orange"}, "x-user: eve": {"red"}, "": {"green"}}
        for person in (dora, eve):
            person.tproxy("leave", "dataprocessingservice")
        assert [shop.page(header) for header in ("x-user: dora", "x-user: eve", "")] == [{"green"}] * 3
    finally:
        for process in (app, red):
            process.kill()
        dora.tproxy("leave", "--all", check=False)
        eve.tproxy("leave", "--all", check=False)
        dora.tproxy("disconnect", check=False)
    assert dora.get(SERVICE) == ""
