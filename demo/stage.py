"""What the demo's steps are made of: the lab, commands in its places, and a way to say what was expected and seen."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tproxy.lab.layout import Layout
from tproxy.lab.ordinary import USER, ordinary

TPROXY = Path(sys.executable).with_name("tproxy")
LAB = "demo"
DEADLINE_SECONDS = 10.0
TIMEOUT_SECONDS = 60


class StepFailedError(Exception):
    """What was seen is not what was expected."""


class Demo:
    """Runs steps, shows them, keeps what has to be undone."""

    def __init__(self, *, pause: bool) -> None:
        self._pause = pause
        self._number = 0
        self._color = sys.stdout.isatty()
        self._began = time.monotonic()

    def step(self, title: str, expected: str, see: Callable[[], str]) -> None:
        """Run `see`; what it returns must be `expected`."""
        self._number += 1
        if self._pause:
            input(f"\n[Enter] for step {self._number}: {title}")
        print(f"\n{self._number}. {title}", flush=True)
        began = time.monotonic()
        seen = see()
        good = seen == expected
        print(f"   expected: {expected}")
        print(f"   seen:     {self._paint(seen, good)}   ({time.monotonic() - began:.2f} s)", flush=True)
        if not good:
            raise StepFailedError(title)

    def finished(self) -> None:
        """Say so."""
        print(f"\nEvery step was as expected, in {time.monotonic() - self._began:.1f} s.")

    def _paint(self, text: str, good: bool) -> str:
        return f"\033[{32 if good else 31}m{text}\033[0m" if self._color else text


def tproxy(*arguments: str) -> None:
    """Run the command line on this machine, visibly."""
    _visibly("$", f"tproxy {' '.join(arguments)}", [TPROXY, *arguments])


def laptop_tproxy(*arguments: str, who: str = "laptop") -> None:
    """Run the command line on the laptop of the lab, visibly."""
    command = [TPROXY, "lab", "exec", "--name", LAB, who, "--", "tproxy", *arguments]
    _visibly(f"{who}$", f"tproxy {' '.join(arguments)}", command)


def _visibly(prompt: str, shown: str, command: list[str | Path]) -> None:
    print(f"   {prompt} {shown}", flush=True)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    for line in done.stdout.splitlines():
        print(f"     {line}".rstrip())
    if done.returncode != 0:
        raise StepFailedError(f"`{shown}` left with {done.returncode}")


def start(place: str, *command: str | Path) -> None:
    """Begin a command in a place of the lab; it ends with the lab at the latest."""
    arguments = [TPROXY, "lab", "exec", "--name", LAB, place, "--", *command]
    subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def inside(place: str, *command: str) -> str:
    """The output of a command in a place of the lab, empty if it failed."""
    arguments = [TPROXY, "lab", "exec", "--name", LAB, place, "--", *command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False).stdout


class Nobody:
    """A user of the laptop without any rights, with a kubeconfig in a home below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._home = directory / "nobody"
        self._home.mkdir(mode=0o700)
        kubeconfig = shutil.copy(Layout(LAB).laptop_kubeconfig, self._home / "kubeconfig")
        for path in (directory, self._home, kubeconfig):
            os.chown(path, USER, USER)

    def inside(self, *command: str) -> str:
        """The output of a command of theirs, empty if it failed."""
        home = self._home
        variables = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"), home)
        variables["KUBECONFIG"] = home / "kubeconfig"
        return inside("laptop", *ordinary(["env", *(f"{name}={value}" for name, value in variables.items()), *command]))


def eventually(expected: str, look: Callable[[], str]) -> str:
    """Look until it is as expected, or the deadline has passed; what was seen last."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def leftovers() -> str:
    """What of the lab is still on this machine."""
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    found = [line.split()[0] for line in namespaces.splitlines() if line.startswith(f"tproxy-{LAB}-")]
    found += [
        str(path)
        for path in (Path("/run/tproxy-lab") / LAB, *Path("/sys/fs/cgroup").glob(f"**/tproxy-lab-{LAB}"))
        if path.exists()
    ]
    return ", ".join(found) or "nothing is left"
