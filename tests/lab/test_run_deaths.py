"""`tproxy run` and every kind of death: of its daemon, its command and itself, in any order."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.laptop import network
from tests.lab.person import Person
from tests.lab.test_run import manifests
from tproxy.kube.port import NAMESPACES

# Says what `web` answers whenever it is given a line; has a child that ignores SIGTERM.
ASKING = """
import os, subprocess, sys, urllib.request
subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 100; done"])
print(os.getpid(), flush=True)
for line in sys.stdin:
    try: print(urllib.request.urlopen("http://web/", timeout=15).read().decode().strip(), flush=True)
    except OSError as error: print("error", error, flush=True)
"""


@pytest.fixture(scope="module")
def person(lab: Any) -> Iterator[Person]:
    lab.client.create(NAMESPACES, {"metadata": {"name": "deaths"}})
    lab.apply(manifests("web", "deaths"), "deaths")
    one = Person(lab, "deaths")
    try:
        yield one
    finally:
        one.close()


def daemon_pid(person: Person) -> int:
    return int((person.home / "tproxy" / "daemon.lock").read_text())


def namespaces(person: Person) -> set[str]:
    """The network namespaces that processes of this person are in."""
    listed = subprocess.run(["ps", "-o", "pid=", "-u", str(person.uid)], capture_output=True, text=True, check=False)
    found = set()
    for pid in listed.stdout.split():
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue
    return found


def others(person: Person) -> list[str]:
    """Processes other than the daemon."""
    return [line for line in person.processes() if "tproxy_cli.daemon" not in line and "defunct" not in line]


@pytest.mark.parametrize("order", list(itertools.permutations(("daemon", "command", "command line"))))
def test_whoever_is_killed_in_whatever_order_nothing_is_left(person: Person, order: tuple[str, ...]) -> None:
    person.run("true")  # so that there is a daemon before and after
    laptop = network(person.lab.layout.netns("laptop"))
    try:
        before = laptop.state() | {"listeners": "", "namespaces": str(namespaces(person))}
        with person.begin(sys.executable, "-c", ASKING, stdin=subprocess.PIPE) as process:
            assert process.stdout is not None
            pids = {"command": int(process.stdout.readline()), "command line": process.pid}
            pids["daemon"] = daemon_pid(person)
            for victim in order:
                try:
                    os.kill(pids[victim], signal.SIGKILL)
                except ProcessLookupError:
                    continue  # its end has been the end of this one, too
            process.wait(20)
            process.communicate()
        person.lab.wait(lambda: not others(person), f"nothing runs any more: {others(person)}")
        person.run("true")
        after = laptop.state() | {"listeners": "", "namespaces": str(namespaces(person))}
        assert after == before
    finally:
        laptop.netns.close()


def test_another_daemon_takes_over_from_one_that_died(person: Person) -> None:
    with person.begin(sys.executable, "-c", ASKING, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> str:
            process.stdin.write("\n")
            process.stdin.flush()
            return str(process.stdout.readline())

        process.stdout.readline()
        assert ask().startswith("web-")
        os.kill(daemon_pid(person), signal.SIGKILL)
        person.lab.wait(lambda: ask().startswith("web-"), "an answer by way of the new daemon")
        process.stdin.close()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "another one takes over" in process.stderr.read()


def test_quit_is_somebodys_wish(person: Person) -> None:
    with person.begin(sys.executable, "-c", ASKING, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        person.tproxy("quit")
        process.stdin.close()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "`tproxy quit` has ended the daemon" in process.stderr.read()
    assert not others(person)


def test_what_a_command_leaves_behind_ends_with_it(person: Person) -> None:
    done = person.run("sh", "-c", "sleep 1000 & echo started")
    assert done.stdout == "started\n"
    assert not others(person)
