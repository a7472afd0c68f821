"""Who may trace and capture, and what cannot be: found before anything is started."""

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tproxy_node.child import Child
from tproxy_node.debug import capturing, tracing
from tproxy_node.debug.capturing import Captures
from tproxy_node.debug.questions import ON_THE_NODE, Asker, Question, Questions
from tproxy_node.debug.subjects import Subjects
from tproxy_node.debug.tracing import Traces
from tproxy_node.places import Place, Places
from tproxy_node.relay import Limits, Relay

from tproxy.errors import TproxyError
from tproxy.model.pod import Pod
from tproxy.netns.handle import Netns
from tproxy.tunnel.conn import Buffer

DEBUGGER = Asker("uid-d", "tproxy-system/dana", "dana", "tproxy-system", everything=True)
DEVELOPER = Asker("uid-a", "shop/ann", "ann", "shop", everything=False)
PODS = (
    Pod("shop", "web-1", "uid-1", phase="Running", addresses=("10.0.0.1",)),
    Pod("shop", "web-2", "uid-2", phase="Running", addresses=("10.0.0.2",), host_network=True),
    Pod("shop", "web-3", "uid-3", phase="Succeeded", addresses=("10.0.0.3",)),
)


class Nobody:
    """A reply that no answer is to be given to."""

    async def line(self, value: Mapping[str, Any]) -> None:
        assert value == {"preparing": True}

    async def send(self, data: Buffer) -> None:
        raise AssertionError(bytes(data))


def refused(tmp_path: Path, name: str, who: Asker, **arguments: Any) -> TproxyError:
    """Why the question is not answered."""

    async def scenario() -> None:
        subjects = Subjects(lambda: PODS, Places(tmp_path), "node1")
        known = Questions()
        Traces(subjects, Relay(lambda _: None, Limits())).join(known)
        Captures(subjects).join(known)
        await known.answer(Question(name, who, arguments), Nobody())

    with pytest.raises(TproxyError) as caught:
        asyncio.run(scenario())
    return caught.value


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tracing, capturing):
        monkeypatch.setattr(module, "MODULE", "tproxy_node.is_not_to_be_started")


@pytest.mark.parametrize("name", ["trace", "capture"])
def test_debuggers_only(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, name, DEVELOPER, pod="shop/web-1")
    assert error.message == f"{name} is for node debuggers"
    assert error.exit_code == 4


@pytest.mark.parametrize("name", ["trace", "capture"])
@pytest.mark.parametrize("who", [DEBUGGER, ON_THE_NODE])
@pytest.mark.parametrize(
    ("pod", "message", "code"),
    [
        ("web-1", "'web-1' is not NAMESPACE/NAME of a pod", 2),
        ("a/b/c", "'a/b/c' is not NAMESPACE/NAME of a pod", 2),
        ("shop/none", "no pod shop/none runs on node node1", 3),
        ("shop/web-3", "no pod shop/web-3 runs on node node1", 3),
        ("shop/web-2", "pod shop/web-2 cannot be looked into: the pod uses its node's network", 3),
    ],
)
def test_pods_that_are_not_there(tmp_path: Path, name: str, who: Asker, pod: str, message: str, code: int) -> None:
    error = refused(tmp_path, name, who, pod=pod)
    assert error.message.startswith(message)
    assert error.exit_code == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events": ["nonsense"]}, "there is no event 'nonsense' to trace; there are state, "),
        ({"events": "state"}, "the node daemon does not understand the question's events"),
        ({"port": 65536}, "port must be a number from 0 to 65535"),
        ({"rate": 0}, "rate must be a number from 1 to 20000"),
        ({"seconds": 3601}, "seconds must be a number from 1 to 3600"),
    ],
)
def test_nonsense(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    assert refused(tmp_path, "trace", DEBUGGER, **arguments).message.startswith(message)


def test_captures_need_a_pod(tmp_path: Path) -> None:
    assert refused(tmp_path, "capture", DEBUGGER).message == "'' is not NAMESPACE/NAME of a pod"
    assert "snapLength" in refused(tmp_path, "capture", DEBUGGER, pod="shop/web-1", snapLength=1).message


def test_who_asks_for_what_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        refused(tmp_path, "trace", DEBUGGER, pod="shop/none", port=80)
    (record,) = [one for one in caplog.records if one.getMessage() == "asked: trace"]
    assert vars(record)["user"] == "dana"
    assert vars(record)["arguments"] == "pod=shop/none, port=80"


def test_no_more_than_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_TRACES", 0)
    assert refused(tmp_path, "trace", DEBUGGER).message == "too many traces run on this node"
    monkeypatch.setattr(capturing, "MAX_CAPTURES", 0)
    assert refused(tmp_path, "capture", DEBUGGER, pod="shop/web-1").message == "too many captures run on this node"


class Watching:
    """What a trace's process is told, and which namespaces there are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pods: list[Pod] = []
        self.told: list[tuple[list[str], list[int]]] = []
        self.inodes: dict[str, int] = {}
        monkeypatch.setattr(Places, "find", self.find)

    def find(self, pods: Iterable[Pod]) -> dict[str, Place]:
        # A memory file has an inode, as a namespace has.
        found = {pod.uid: Place(pod, Netns(os.memfd_create("netns"))) for pod in pods}
        self.inodes |= {uid: place.netns.id.inode for uid, place in found.items()}
        return found

    def tell(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        added = [one["pod"] for one in message.get("add", ())]
        assert [os.fstat(fd).st_ino for fd in descriptors] == [one["inode"] for one in message.get("add", ())]
        self.told.append((added, message.get("remove", [])))


def test_pods_that_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching = Watching(monkeypatch)
    one, two = (Pod("shop", f"web-{n}", f"uid-{n}", phase="Running", addresses=(f"10.0.0.{n}",)) for n in (1, 2))

    async def scenario() -> None:
        subjects = Subjects(lambda: watching.pods, Places(tmp_path), "node1")
        child = cast(Child, watching)
        trace = tracing._Trace(tracing._Asked("", ["state"], 0, 1), child, subjects, None, dict)
        for pods in ([one], [one, two], [one, two], [two], [replace(two, addresses=("10.0.0.9",))]):
            watching.pods = list(pods)
            await trace.follow()

    asyncio.run(scenario())
    first, again = watching.told[0], watching.told[-1]
    assert first == (["web-1"], [])
    assert watching.told[1] == (["web-2"], [])
    assert watching.told[2] == ([], [watching.inodes["uid-1"]])
    assert len(watching.told) == 5, "a pod with another address has another network"
    assert again == (["web-2"], [])


def test_a_process_that_does_not_start(tmp_path: Path) -> None:
    """`_no_process` names a module that there is none of."""
    assert refused(tmp_path, "trace", DEBUGGER).message.startswith("the process that traces failed: ")
