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
from pathlib import Path

from stage import (
    LAB,
    TPROXY,
    Demo,
    Nobody,
    StepFailedError,
    eventually,
    inside,
    laptop_tproxy,
    leftovers,
    start,
    tproxy,
)

HERE = Path(__file__).parent
SERVICE = "http://verylargejavaservice:8080/"
PAGE = "http://verylargejavaservice.default.svc.cluster.local:8080/"
LOOKS = 6
CURL = ("curl", "-s", "--max-time", "5")


def color_of(page: str) -> str:
    """The colour on a page, or that there is none."""
    found = re.search(r'<strong id="color">(\w+)</strong>', page)
    return f"the page is {found[1]}" if found else "there is no page"


def page_color(header: str = "") -> str:
    """The colours on the page, as the outside user sees it when asking several times: the service has two pods."""
    option = f"-H '{header}' " if header else ""
    print(f"   user$ curl {option}{PAGE}    ({LOOKS} times)")
    seen = inside("user", *CURL, *(["-H", header] if header else []), *[PAGE] * LOOKS)
    colors = re.findall(r'<strong id="color">(\w+)</strong>', seen)
    if len(colors) < LOOKS:
        return f"{LOOKS - len(colors)} of {LOOKS} times there is no page"
    return f"the page is {' and '.join(sorted(set(colors)))}"


def laptop_finds(url: str) -> str:
    """What a program on the laptop gets at `url`: the page's colour, or nothing at all."""
    print(f"   laptop$ curl {url}")
    return color_of(inside("laptop", *CURL, url))


def laptop_color(port: int = 3000) -> str:
    """What the service on the laptop says."""
    answer = inside("laptop", *CURL, f"http://localhost:{port}/color")
    return json.loads(answer) if answer else "nothing"


def laptop_summary() -> str:
    """What the service on the laptop makes of the records, which are in the cluster."""
    print("   laptop$ curl http://localhost:3000/summary")
    answer = json.loads(inside("laptop", *CURL, "http://localhost:3000/summary") or "{}")
    return f"{answer.get('customers', 'no')} customers with {answer.get('orders', 'no')} orders"


class Play:
    """The acts. `sources` is a directory with copies of the services' sources, to be edited."""

    def __init__(self, demo: Demo, sources: Path) -> None:
        self._demo = demo
        self._sources = sources
        self._local = sources / "dataprocessingservice.py"

    def cluster(self) -> None:
        """Bring it up."""
        manifests = self._sources / "manifests.yaml"
        manifests.write_text(manifests.read_text().replace("EDGY_CORP", str(HERE / "edgy_corp")))

        def deployed() -> str:
            tproxy("lab", "up", "--name", LAB)
            tproxy("lab", "apply", "--name", LAB, "--wait", "-f", str(manifests))
            return "Edgy Corp runs in the lab"

        step = self._demo.step
        step("A cluster of two nodes, and Edgy Corp's three services in it", "Edgy Corp runs in the lab", deployed)
        step("The page, asked by the outside user", "the page is green", page_color)

    def outbound(self) -> None:
        """The laptop reaches the cluster: one command first, then everything."""

        def as_nobody() -> str:
            print(f"   nobody@laptop$ tproxy run -- curl {SERVICE}")
            with tempfile.TemporaryDirectory(prefix="nobody-") as directory:
                nobody = Nobody(Path(directory))
                try:
                    return color_of(nobody.inside("tproxy", "run", "--", *CURL, SERVICE))
                finally:
                    nobody.inside("tproxy", "quit")

        def connected() -> str:
            laptop_tproxy("connect")
            get = ("kubectl", "get", "service", "verylargejavaservice", "-o", "jsonpath={.spec.clusterIP}")
            by_name, by_address = laptop_finds(SERVICE), laptop_finds(f"http://{inside('laptop', *get)}:8080/")
            return f"by name {by_name}, by ClusterIP {by_address}"

        step = self._demo.step
        step("The laptop is not in the cluster", "there is no page", lambda: laptop_finds(SERVICE))
        step("One command is, and needs no root for it", "the page is green", as_nobody)
        step(
            "Every program on the laptop is",
            "by name the page is green, by ClusterIP the page is green",
            connected,
        )

    def everything(self) -> None:
        """A global intercept: a change is seen at once, and everything the service needs is there."""

        def started() -> str:
            print(f"   laptop$ python {self._local.name} --reload")
            start("laptop", sys.executable, self._local, "--reload")
            return f"the laptop says {eventually('blue', laptop_color)}"

        def intercepted() -> str:
            laptop_tproxy("intercept", "dataprocessingservice", "--port", "3000")
            return page_color()

        def edited() -> str:
            print(f"   laptop$ sed -i s/blue/orange/ {self._local.name}")
            source = self._local.read_text()
            self._local.write_text(source.replace('DEFAULT_COLOR = "blue"', 'DEFAULT_COLOR = "orange"'))
            return f"the laptop says {eventually('orange', laptop_color)}"

        def left() -> str:
            laptop_tproxy("leave", "dataprocessingservice")
            return page_color()

        step = self._demo.step
        step("The data processing service starts on the laptop as well", "the laptop says blue", started)
        step("The laptop takes the service's traffic", "the page is blue", intercepted)
        step("The laptop's service reads the cluster's records", "3 customers with 42 orders", laptop_summary)
        step("The source on the laptop is edited and reloads", "the laptop says orange", edited)
        step("The page again: no build, no push, no deploy", "the page is orange", page_color)
        step("The laptop leaves", "the page is green", left)

    def single_requests(self) -> None:
        """Personal intercepts of two developers."""

        def personal() -> str:
            laptop_tproxy("intercept", "dataprocessingservice", "--port", "3000", "--http-header", "x-user=ada")
            return page_color()

        def second() -> str:
            print(f"   laptop/eve$ COLOR=red python {self._local.name} --port 3001")
            start("laptop/eve", "env", "COLOR=red", sys.executable, self._local, "--port", "3001")
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

        step = self._demo.step
        step("It takes only requests with a header: the page for everyone", "the page is green", personal)
        step(
            "The header travels through the web page's service",
            "the page is orange",
            lambda: page_color("x-user: ada"),
        )
        step("A second developer takes the same service's requests with another header", "the page is red", second)
        step("All three at once", "for ada the page is orange, for everyone else the page is green", everybody)
        step("Both leave", "the page is green", both_left)

    def end(self) -> None:
        """Undo everything."""

        def disconnected() -> str:
            laptop_tproxy("disconnect")
            return laptop_finds(SERVICE)

        def down() -> str:
            tproxy("lab", "down", "--name", LAB)
            return leftovers()

        self._demo.step("The laptop is as it was", "there is no page", disconnected)
        self._demo.step("The lab goes", "nothing is left", down)


def main() -> int:
    """The exit status: 0 if every step was as expected."""
    parser = argparse.ArgumentParser(description="The main job in a lab on this machine.")
    parser.add_argument("--step", action="store_true", help="wait for Enter before each step")
    demo = Demo(pause=parser.parse_args().step)
    with tempfile.TemporaryDirectory(prefix="edgy-corp-") as directory:
        sources = Path(directory)
        shutil.copytree(HERE / "edgy_corp", sources, dirs_exist_ok=True)
        play = Play(demo, sources)
        try:
            for act in (play.cluster, play.outbound, play.everything, play.single_requests, play.end):
                act()
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
