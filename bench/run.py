"""What it costs to begin a run: `tproxy run -- true` beside `true`, Python that does nothing, and `tproxy --version`.

An ordinary user in a lab of its own, the daemon up and the way into the cluster open, as it is from the second run on;
the first one is shown apart. Rounds alternate; each figure is the median, with the least and the 9th of ten. Run as
root: `.venv/bin/python bench/run.py`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tproxy.lab.layout import Layout
from tproxy.lab.ordinary import USER, ordinary

HERE = Path(__file__).parent
TPROXY = Path(sys.executable).with_name("tproxy")
LAB = "bench"

CASES: dict[str, Sequence[str]] = {
    "true": ["true"],
    "python -c pass": [sys.executable, "-c", "pass"],
    "tproxy --version": [str(TPROXY), "--version"],
    "unshare -Urnm true": ["unshare", "-Urnm", "true"],
    "tproxy run -- true": [str(TPROXY), "run", "--", "true"],
    "tproxy run --as fast -- true": [str(TPROXY), "run", "--as", "fast", "--", "true"],
    "tproxy run --as fast --env --files -- true": f"{TPROXY} run --as fast --env --files -- true".split(),
}


def run(*command: str | Path) -> None:
    """A command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} left with {done.returncode}:\n{done.stdout}{done.stderr}")


def timed(command: Sequence[str]) -> float:
    """Milliseconds from before the fork until it has ended."""
    began = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1000


def as_the_user(rounds: int) -> None:
    """Within the laptop, as the ordinary user: the table."""
    first = timed(CASES["tproxy run -- true"])
    print(f"{'first run: starts the daemon, opens the way':44} {first:7.0f} ms")
    for command in CASES.values():
        timed(command)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, command in CASES.items():
            times[name].append(timed(command))
    print(f"{'':44} {'median':>7} {'least':>7} {'9 of 10':>7}  in ms, {rounds} rounds")
    for name, found in times.items():
        high = statistics.quantiles(found, n=10)[-1]
        print(f"{name:44} {statistics.median(found):7.0f} {min(found):7.0f} {high:7.0f}")
    subprocess.run([TPROXY, "quit"], capture_output=True, check=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--as-the-user", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_the_user:
        as_the_user(options.rounds)
        return
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        manifests = home / "manifests.yaml"
        manifests.write_text((HERE / "manifests.yaml").read_text().replace("BENCH", str(HERE)))
        try:
            run(TPROXY, "lab", "up", "--name", LAB)
            run(TPROXY, "lab", "apply", "--name", LAB, "--wait", "-f", manifests)
            shutil.copy(Layout(LAB).laptop_kubeconfig, home / "kubeconfig")
            for path in (home, home / "kubeconfig"):
                os.chown(path, USER, USER)
            names = {"XDG_RUNTIME_DIR": "", "XDG_STATE_HOME": "/state", "XDG_CONFIG_HOME": "/config", "HOME": ""}
            environment = [f"{name}={home}{below}" for name, below in (names | {"KUBECONFIG": "/kubeconfig"}).items()]
            itself = [sys.executable, str(Path(__file__).resolve()), "--as-the-user", "--rounds", str(options.rounds)]
            enter = [TPROXY, "lab", "exec", "--name", LAB, "laptop", "--", "env", *environment]
            subprocess.run([*enter, *ordinary(itself)], cwd=home, check=True)
        finally:
            subprocess.run([TPROXY, "lab", "down", "--name", LAB], capture_output=True, check=False)


if __name__ == "__main__":
    main()
