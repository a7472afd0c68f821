"""`make demo`: the main job, step by step, on real kernel networking, in a lab on this machine.

Every step says what was expected and what was seen. The exit status is 0 only if they agree everywhere. The lab and
everything it made are gone afterwards, also when a step fails or on Ctrl-C.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
TPROXY = Path(sys.executable).with_name("tproxy")
LAB = "demo"
PAGE = "http://verylargejavaservice.default.svc.cluster.local:8080/"
DEADLINE_SECONDS = 10.0
TIMEOUT_SECONDS = 60
LOOKS = 6


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


def inside(place: str, *command: str) -> str:
    """The output of a command in a place of the lab, empty if it failed."""
    arguments = [TPROXY, "lab", "exec", "--name", LAB, place, "--", *command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False).stdout


def page_color(header: str = "") -> str:
    """The colours on the page, as the outside user sees it when asking several times: the service has two pods."""
    option = f"-H '{header}' " if header else ""
    print(f"   user$ curl {option}{PAGE}    ({LOOKS} times)")
    seen = inside("user", "curl", "-s", "--max-time", "5", *(["-H", header] if header else []), *[PAGE] * LOOKS)
    colors = re.findall(r'<strong id="color">(\w+)</strong>', seen)
    if len(colors) < LOOKS:
        return f"{LOOKS - len(colors)} of {LOOKS} times there is no page"
    return f"the page is {' and '.join(sorted(set(colors)))}"


def laptop_color(port: int = 3000) -> str:
    """What the service on the laptop says."""
    answer = inside("laptop", "curl", "-s", "--max-time", "5", f"http://localhost:{port}/color")
    return json.loads(answer) if answer else "nothing"


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


def show(demo: Demo, sources: Path) -> None:
    """The steps."""
    manifests = sources / "manifests.yaml"
    manifests.write_text(manifests.read_text().replace("EDGY_CORP", str(HERE / "edgy_corp")))
    local_source = sources / "dataprocessingservice.py"

    def deployed() -> str:
        tproxy("lab", "up", "--name", LAB)
        tproxy("lab", "apply", "--name", LAB, "--wait", "-f", str(manifests))
        return "Edgy Corp runs in the lab"

    def started() -> str:
        print(f"   laptop$ python {local_source.name} --reload")
        subprocess.Popen(
            [TPROXY, "lab", "exec", "--name", LAB, "laptop", "--", sys.executable, str(local_source), "--reload"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return f"the laptop says {eventually('blue', laptop_color)}"

    def edited() -> str:
        print(f"   laptop$ sed -i s/blue/orange/ {local_source.name}")
        local_source.write_text(local_source.read_text().replace('DEFAULT_COLOR = "blue"', 'DEFAULT_COLOR = "orange"'))
        return f"the laptop says {eventually('orange', laptop_color)}"

    def intercepted() -> str:
        laptop_tproxy("intercept", "dataprocessingservice", "--port", "3000")
        return page_color()

    def left() -> str:
        laptop_tproxy("leave", "dataprocessingservice")
        return page_color()

    def personal() -> str:
        laptop_tproxy("intercept", "dataprocessingservice", "--port", "3000", "--http-header", "x-user=ada")
        return page_color()

    def second() -> str:
        print(f"   laptop/eve$ COLOR=red python {local_source.name} --port 3001")
        command = ["env", "COLOR=red", sys.executable, str(local_source), "--port", "3001"]
        subprocess.Popen(
            [TPROXY, "lab", "exec", "--name", LAB, "laptop/eve", "--", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually("red", lambda: laptop_color(3001))
        mapping = ("--port", "3001:3000", "--http-header", "x-user=eve")
        laptop_tproxy("intercept", "dataprocessingservice", *mapping, who="laptop/eve")
        laptop_tproxy("list")
        return page_color("x-user: eve")

    def everybody() -> str:
        mine, nobodys = page_color("x-user: ada"), page_color()
        return f"for ada {mine}, for everyone else {nobodys}"

    def both_left() -> str:
        for who in ("laptop", "laptop/eve"):
            laptop_tproxy("leave", "dataprocessingservice", who=who)
        return " and ".join(sorted({page_color(header) for header in ("x-user: ada", "x-user: eve", "")}))

    def down() -> str:
        tproxy("lab", "down", "--name", LAB)
        return leftovers()

    demo.step("A cluster of two nodes, and Edgy Corp's three services in it", "Edgy Corp runs in the lab", deployed)
    demo.step("The page, asked by the outside user", "the page is green", page_color)
    demo.step("The data processing service starts on the laptop as well", "the laptop says blue", started)
    demo.step("The laptop takes the service's traffic", "the page is blue", intercepted)
    demo.step("The source on the laptop is edited and reloads", "the laptop says orange", edited)
    demo.step("The page again: no build, no push, no deploy", "the page is orange", page_color)
    demo.step("The laptop leaves", "the page is green", left)
    demo.step("It takes only requests with a header: the page for everyone", "the page is green", personal)
    demo.step(
        "The header travels through the web page's service",
        "the page is orange",
        lambda: page_color("x-user: ada"),
    )
    demo.step("A second developer takes the same service's requests with another header", "the page is red", second)
    demo.step("All three at once", "for ada the page is orange, for everyone else the page is green", everybody)
    demo.step("Both leave", "the page is green", both_left)
    demo.step("The lab goes", "nothing is left", down)


def main() -> int:
    """The exit status: 0 if every step was as expected."""
    parser = argparse.ArgumentParser(description="The main job in a lab on this machine.")
    parser.add_argument("--step", action="store_true", help="wait for Enter before each step")
    demo = Demo(pause=parser.parse_args().step)
    with tempfile.TemporaryDirectory(prefix="edgy-corp-") as directory:
        sources = Path(directory)
        shutil.copytree(HERE / "edgy_corp", sources, dirs_exist_ok=True)
        try:
            show(demo, sources)
        except (StepFailedError, subprocess.TimeoutExpired) as error:
            print(f"\nThe demo stops here: {error}", file=sys.stderr)
            return 1
        except (KeyboardInterrupt, EOFError):
            print("\nInterrupted.", file=sys.stderr)
            return 130
        finally:
            subprocess.run([TPROXY, "lab", "down", "--name", LAB], capture_output=True, check=False)
    demo.finished()
    return 0


if __name__ == "__main__":
    sys.exit(main())
