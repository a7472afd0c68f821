"""Two developers want requests of one port: who has what, who is told of it, and what becomes of the other."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.laptop import TPROXY
from tests.lab.scene import LOCAL_PORT, PORT, Scene

ADA, EVE = ("--http-header", "x-user=ada"), ("--http-header", "x-user=eve")


class Person:
    """Somebody at the laptop, with a daemon of their own."""

    def __init__(self, scene: Scene, place: str) -> None:
        self._scene = scene
        self._place = place

    def tproxy(self, *arguments: str, check: bool = True) -> Any:
        return self._scene.lab.exec(self._place, *TPROXY, *arguments, check=check)

    def intercept(self, *arguments: str, check: bool = True) -> Any:
        mapping = ("-p", f"{LOCAL_PORT}:{PORT}", "-n", self._scene.namespace, "--timeout", "15")
        return self.tproxy("intercept", "web", *mapping, *arguments, "-o", "name", check=check)

    def leave(self, *arguments: str, check: bool = True) -> Any:
        return self.tproxy("leave", *arguments, "-n", self._scene.namespace, check=check)


@pytest.fixture
def two(scene: Scene) -> Iterator[tuple[Person, Person]]:
    """The laptop's user, and eve."""
    people = Person(scene, "laptop"), Person(scene, "laptop/eve")
    yield people
    for person in people:
        person.tproxy("quit", check=False)


def listed(scene: Scene) -> dict[str, tuple[str, str]]:
    """What `tproxy list` says of each header's value: who has it, and the state."""
    found = {}
    for one in scene.json("list", "-n", scene.namespace)["intercepts"]:
        value = one["match"]["headers"][0]["value"] if one["match"] else ""
        found[value] = (one["user"], one["state"])
    return found


def test_who_has_what_and_who_is_refused(scene: Scene, two: tuple[Person, Person]) -> None:
    ada, eve = two
    name = ada.intercept(*ADA).stdout.strip().removeprefix("intercept/")
    eve.intercept(*EVE)
    assert listed(scene) == {"ada": ("developer", "Ready"), "eve": ("eve", "Ready")}
    assert scene.seen("-H", "x-user: ada") == scene.seen("-H", "x-user: eve") == "laptop"
    assert scene.seen() == "pod"

    for flags in (ADA, (*ADA, "--http-path-prefix", "/api"), ("--http-header", "x-user=~ad.")):
        refused = eve.intercept(*flags, check=False)
        assert refused.returncode == 5
        assert f"{name} has port {PORT} of Deployment/web for requests with x-user=ada" in refused.stderr
        assert "is already intercepted by developer on " in refused.stderr
        assert " since 20" in refused.stderr
        assert f"`tproxy leave --force {name}` takes it, if you may" in refused.stderr
    again = ada.intercept(*ADA, "--http-method", "GET", check=False)
    assert again.returncode == 5
    assert f"you already intercept port {PORT} of Deployment/web for requests with x-user=ada as {name}" in again.stderr

    # A global one has what is nobody's.
    eve.leave("--all")
    eve.intercept()
    assert scene.seen() == "laptop"
    assert listed(scene) == {"ada": ("developer", "Ready"), "": ("eve", "Ready")}
    eve.leave("--all")

    unknown = eve.leave("web", "--force", check=False)
    assert unknown.returncode == 2
    assert f"`{name}` of developer on " in unknown.stderr
    forced = eve.leave(name, "--force")
    assert forced.stdout.startswith(f"intercept/{name} left in ")
    assert forced.stdout.endswith("(Deployment/web, of developer)\n")
    scene.lab.wait(lambda: scene.seen("-H", "x-user: ada") == "pod", "the pod again")
    shown = ada.tproxy("status").stdout
    assert "Lost" in shown
    eve.intercept(*ADA)
    assert scene.seen("-H", "x-user: ada") == "laptop"


def test_a_frozen_holder_loses_its_place_and_is_told(scene: Scene, two: tuple[Person, Person]) -> None:
    ada, eve = two
    ada.intercept(*ADA)
    daemon = scene.pid()
    os.kill(daemon, signal.SIGSTOP)
    try:
        scene.lab.wait(lambda: eve.intercept(*ADA, check=False).returncode == 0, "ada's place", 20)
        assert scene.seen("-H", "x-user: ada") == "laptop"
    finally:
        os.kill(daemon, signal.SIGCONT)

    def states() -> list[tuple[str, str]]:
        found = scene.json("list", "-n", scene.namespace)["intercepts"]
        return sorted((one["user"], one["state"]) for one in found)

    scene.lab.wait(lambda: states() == [("developer", "Conflicted"), ("eve", "Ready")], "both to be told", 20)
    assert " is intercepted by web-" in ada.tproxy("list", "-n", scene.namespace).stderr
    eve.leave("--all")
    scene.lab.wait(lambda: states() == [("developer", "Ready")], "ada's turn again", 20)


def test_a_header_of_ones_own(scene: Scene, two: tuple[Person, Person]) -> None:
    ada, eve = two
    mapping = ("-p", f"{LOCAL_PORT}:{PORT}", "-n", scene.namespace, "--http-header", "auto")
    said = ada.tproxy("intercept", "web", *mapping).stdout
    [line] = [line for line in said.splitlines() if "with curl" in line]
    header = line.partition("-H '")[2].partition("'")[0]
    assert header.startswith("x-tproxy-intercept: ")
    assert scene.seen("-H", header) == "laptop"
    assert scene.seen() == "pod"
    again = ada.tproxy("intercept", "web", *mapping).stdout
    assert " configured in " in again
    assert line in again
    other = eve.tproxy("intercept", "web", *mapping).stdout
    assert " created in " in other
    assert line not in other
