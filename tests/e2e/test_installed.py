"""What an administrator and a developer see of the chart once it is installed on nodes."""

import json

from tests.e2e.chart import Release
from tests.e2e.cluster import Cluster
from tests.e2e.network import NODES
from tests.e2e.person import Person


def test_helm_test(cluster: Cluster) -> None:
    """Its pod asks both daemons by name, and is gone afterwards."""
    said = Release(cluster.plane).helm("test", "tproxy")
    assert "TEST SUITE:     tproxy-test" in said
    assert "Phase:          Succeeded" in said
    left = cluster.kubectl("get", "pod", "tproxy-test", "-n", "tproxy-system", "--ignore-not-found", "-o", "name")
    assert left == ""


def test_doctor_finds_nothing_wrong(dora: Person) -> None:
    findings = json.loads(dora.tproxy("doctor", "-o", "json").stdout)["checks"]
    told = {finding["name"]: finding for finding in findings}
    assert [one for one in findings if one["outcome"] not in ("pass", "skip")] == []
    # What a developer has no right to look at, and nothing else.
    unseen = {one["name"] for one in findings if one["outcome"] == "skip"}
    assert unseen <= {"kernels", "runtimes", "dns", "pod-security"}
    assert "ready on 2 nodes" in told["node-daemons"]["text"]
    assert "dora" in told["user"]["text"]


def test_a_developer_without_root_neither(eve: Person) -> None:
    findings = json.loads(eve.tproxy("doctor", "-o", "json").stdout)["checks"]
    assert [one for one in findings if one["outcome"] == "fail"] == []


def test_daemons_have_what_the_chart_gives_and_no_more(cluster: Cluster) -> None:
    """As the kernel sees it, of the processes themselves."""
    for name in NODES:
        place = cluster.nodes[name].place
        pid = place.shell("pgrep -f '^python3 -m tproxy_node' | head -n 1").strip()
        status = dict(line.split(":\t", 1) for line in place.run("cat", f"/proc/{pid}/status").stdout.splitlines())
        # DAC_READ_SEARCH, NET_ADMIN, NET_RAW, SYS_PTRACE, SYS_ADMIN; a filter of system calls.
        capabilities = sum(1 << number for number in (2, 12, 13, 19, 21))
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == capabilities
        assert status["Seccomp"] == "2"
        assert place.run("touch", f"/proc/{pid}/root/etc/x", check=False).returncode != 0


def test_daemons_have_not_restarted_nor_complained(cluster: Cluster) -> None:
    query = ("-n", "tproxy-system", "-l", "app.kubernetes.io/component=node")
    pods = json.loads(cluster.kubectl("get", "pods", *query, "-o", "json"))["items"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
        log = cluster.kubectl("logs", "-n", "tproxy-system", pod["metadata"]["name"])
        assert "Traceback" not in log
        assert "forbidden" not in log
