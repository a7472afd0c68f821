"""Parts of the lab that need no namespaces: processes, logs, records, layout."""

import asyncio
import json
import stat
from pathlib import Path

import pytest
import yaml

from tproxy.errors import InvalidError, TproxyError
from tproxy.lab import logs, network
from tproxy.lab.addresses import Node, PodAddresses
from tproxy.lab.exec import find, find_pod
from tproxy.lab.layout import Layout
from tproxy.lab.pod_status import PodFacts, PodReporter
from tproxy.lab.records import Records
from tproxy.lab.stage import write_kubeconfig

NODES = [Node(1), Node(2)]


@pytest.mark.parametrize("name", ["", "Lab", "a_b", "-a", "a-", "../x", "a" * 21, "a b", "lab\n"])
def test_names_that_cannot_be_paths_are_refused(name: str) -> None:
    with pytest.raises(InvalidError, match="cannot be the name of a lab"):
        Layout(name)


def test_a_lab_owns_only_its_own_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"tproxy-a-router", "tproxy-a-node1", "tproxy-a-pod-0123abcd"}
    others = {"tproxy-a-router-laptop", "tproxy-a-pod-router", "tproxy-ab-router", "tproxy-a-pod-xyz", "other"}
    for name in own | others:
        (tmp_path / name).touch()
    monkeypatch.setattr("tproxy.lab.layout.NETNS", tmp_path)
    assert set(Layout("a").present_netns()) == own


def test_pod_addresses_run_out_and_come_back_last() -> None:
    free = PodAddresses(Node(1))
    taken = [free.take() for _ in range(253)]
    assert taken == list(range(2, 255))
    with pytest.raises(TproxyError, match="no free pod address"):
        free.take()
    free.give_back(9)
    free.give_back(3)
    assert [free.take(), free.take()] == [9, 3]
    assert Node(2).pod_addresses(17) == ("10.244.2.17", "fd24:2::11")


def test_the_laptop_has_no_way_past_the_router() -> None:
    router = network.stage_links(Layout("lab"), NODES)
    assert "route add prohibit 0.0.0.0/0 table 100" in router
    assert "route add prohibit ::/0 table 100" in router
    laptop = network.place_links("laptop", NODES)
    assert not [line for line in laptop if "10.96." in line or "10.244." in line]


def test_everybody_answers_the_user_through_the_first_node() -> None:
    back = ["route add 10.99.0.100/32 via 10.99.0.11", "route add fd99::100/128 via fd99::11"]
    for lines in (network.stage_links(Layout("lab"), NODES), network.place_links("node2", NODES)):
        assert [line for line in lines if "10.99.0.100/" in line or "fd99::100/" in line] == back
    assert "route add 10.96.0.0/16 via 10.99.0.11" in network.place_links("user", NODES)


def test_link_names_fit_the_kernels_limit() -> None:
    assert len(network.link_name("01234567-89ab-cdef-0123-456789abcdef")) <= 15


def test_a_log_keeps_its_last_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"".join(b"line %03d\n" % number for number in range(100)))
    logs.cut(path, limit=2000, kept=50)
    assert path.read_bytes().startswith(b"line 000")
    logs.cut(path, limit=500, kept=50)
    assert path.read_bytes() == b"".join(b"line %03d\n" % number for number in range(95, 100))


def test_an_appending_writer_goes_on_after_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    with logs.open_log(path) as output:
        output.write(b"a" * 99 + b"\n" + b"kept\n")
        logs.cut(path, limit=10, kept=6)
        output.write(b"next\n")
    assert path.read_bytes() == b"kept\nnext\n"


def test_following_ends_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"one\ntwo\nthree\n")

    async def read() -> bytes:
        said = b""
        async for chunk in logs.follow(path, keep_following=True, tail=2):
            said += chunk
            if said == b"two\nthree\n":
                with path.open("ab") as file:
                    file.write(b"four\n")
            if said.endswith(b"four\n"):
                path.unlink()
        return said

    assert asyncio.run(asyncio.wait_for(read(), 5)) == b"two\nthree\nfour\n"


class Facts:
    """A container as its pod knows it."""

    def __init__(self, name: str, ready: bool = False, started: bool = True, code: int | None = None) -> None:
        self.name, self.ready, self.started = name, ready, started
        self.finished, self.succeeded = code is not None, code == 0
        self.unready_reason = "" if ready else f"{name} is slow"

    def status(self) -> dict[str, object]:
        return {"name": self.name, "ready": self.ready}


HERE = PodFacts(("10.99.0.11", "fd99::11"), ("10.244.1.2", "fd24:1::2"), True, "", "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("containers", "phase", "ready"),
    [
        ([Facts("a", started=False)], "Pending", "False"),
        ([Facts("a", ready=True), Facts("b", ready=True)], "Running", "True"),
        ([Facts("a", ready=True), Facts("b")], "Running", "False"),
        ([Facts("a", code=0), Facts("b", code=0)], "Succeeded", "False"),
        ([Facts("a", code=0), Facts("b", code=1)], "Failed", "False"),
        ([Facts("a", code=1), Facts("b", ready=True)], "Running", "False"),
    ],
)
def test_phase_and_readiness(containers: list[Facts], phase: str, ready: str) -> None:
    status = PodReporter().status(HERE, containers)
    assert status["phase"] == phase
    assert {one["type"]: one["status"] for one in status["conditions"]}["Ready"] == ready
    assert status["podIPs"] == [{"ip": "10.244.1.2"}, {"ip": "fd24:1::2"}]


def test_an_unready_pod_says_why_and_a_condition_keeps_its_time() -> None:
    reporter = PodReporter()
    first = reporter.status(HERE, [Facts("a", ready=True), Facts("b")])
    assert first["conditions"][-1]["message"] == "containers with unready status: [b]: b is slow"
    reporter._since["Ready"] = (False, "then")
    assert reporter.status(HERE, [Facts("b")])["conditions"][-1]["lastTransitionTime"] == "then"
    assert reporter.status(HERE, [Facts("b", ready=True)])["conditions"][-1]["lastTransitionTime"] != "then"


def test_records_are_whole_and_roots_alone(tmp_path: Path) -> None:
    records = Records(tmp_path / "state.json", {"name": "x"})
    records.set_pod("1", {"namespace": "b", "name": "p"})
    records.set_pod("2", {"namespace": "a", "name": "q"})
    records.set_state("up", extra=1)
    facts = json.loads((tmp_path / "state.json").read_text())
    assert facts["state"] == "up"
    assert facts["extra"] == 1
    assert [pod["namespace"] for pod in facts["pods"]] == ["a", "b"]
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_the_kubeconfig_is_yaml_and_private(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, "developer", "secret")
    config = yaml.safe_load(path.read_text())
    assert config["current-context"] == config["contexts"][0]["name"]
    assert config["users"][0]["user"]["token"] == "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


PLACES = {
    "nodes": [{"name": "node1"}, {"name": "node2"}],
    "pods": [{"namespace": "shop", "name": name} for name in ("web-5d9f-abcde", "db-1-x", "db-1-y")],
}


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("moon", "laptop, laptop/eve, laptop/dora, laptop/debbie, user, node/1, node/2 and pod/NAMESPACE/NAME"),
        ("node/3", "node/1, node/2"),
        ("node/x/y", "laptop, laptop/eve, laptop/dora, laptop/debbie, user"),
        ("pod/shop/wbe-5d9f-abcde", "web-5d9f-abcde"),
        ("pod/shop/db", "db-1-x, db-1-y"),
        ("pod/empty/web", "lab status"),
    ],
)
def test_a_wrong_place_names_the_right_ones(place: str, hint: str) -> None:
    with pytest.raises(InvalidError) as failure:
        find(Layout("lab"), PLACES, place)
    assert hint in failure.value.hint


def test_a_workload_with_one_pod_names_it() -> None:
    assert find_pod(PLACES, "shop", "web")["name"] == "web-5d9f-abcde"
