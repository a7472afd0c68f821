"""Looks for input that breaks the HTTP routers, for as long as you like: `make fuzz`, or with options

    python -m tests.unit.http.fuzz [--seconds 600] [--engine atheris|hypothesis] [NAME ...]

What is tried are the properties of the tests here that take anything. atheris (`pip install atheris`) is led by what
the code has not done before; without it hypothesis draws as in the tests, only more. What fails is printed in its
smallest form, and belongs into a test.
"""

import argparse
import faulthandler
import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

MEMORY = 2 * 1024**3
"""Bytes of address space: what grows without a limit ends here."""

HANG_SECONDS = 10
"""No input takes so long."""

TARGETS = {
    "http1": ("test_fuzz", "test_nothing_breaks_it"),
    "plain": ("test_plain", "test_what_is_plain_is_what_it_seems"),
    "answers": ("test_plain", "test_an_answer_that_is_plain_ends_where_it_seems_to"),
    "unanswered": ("test_unanswered", "test_nothing_that_is_said_breaks_it"),
    "streams": ("test_corpus", "test_cut_anywhere"),
    "http2": ("test_h2_hostile", "test_nothing_that_is_said_makes_it_fall_over"),
    "messages": ("test_h2_corpus", "test_any_conversation_in_any_pieces"),
}


def target(name: str) -> Any:
    """A property by its name."""
    module, function = TARGETS[name]
    return getattr(importlib.import_module(f"tests.unit.http.{module}"), function)


def draw(name: str, seconds: float) -> int:
    """Try what hypothesis draws; returns how much. A failure is raised."""
    found = target(name)
    inner = found.hypothesis.inner_test
    tried = 0

    def counted(*values: Any, **named: Any) -> None:
        nonlocal tried
        tried += 1
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        inner(*values, **named)

    found.hypothesis.inner_test = counted
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found()
    return tried


def lead(name: str, seconds: float) -> None:
    """Try what atheris is led to. Ends the process."""
    import atheris

    with atheris.instrument_imports(include=["tproxy.http"]):
        one = target(name).hypothesis.fuzz_one_input
    kept = f"-artifact_prefix={tempfile.gettempdir()}/tproxy-fuzz-{name}-"
    limits = (
        kept,
        "-rss_limit_mb=1024",
        f"-timeout={HANG_SECONDS}",
        "-max_len=8192",
        "-len_control=0",
        "-print_final_stats=1",
    )
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds:.0f}", *limits], one)
    atheris.Fuzz()


def main() -> None:
    """Each in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}; all without")
    parser.add_argument("--seconds", type=float, default=600, help="of all together")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(TARGETS):
        parser.error(f"no such name: {', '.join(sorted(unknown))}")
    engine = options.engine or ("atheris" if importlib.util.find_spec("atheris") else "hypothesis")
    names = options.names or list(TARGETS)
    seconds = options.seconds / len(names)
    if not options.here:
        for name in names:
            print(f"{name}: {engine}, {seconds:.0f} s", flush=True)
            command = [sys.executable, "-m", "tests.unit.http.fuzz", "--here", "--engine", engine]
            if status := subprocess.run([*command, "--seconds", str(seconds), name], check=False).returncode:
                raise SystemExit(status)
        return
    if engine == "atheris":
        lead(names[0], seconds)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    began = time.monotonic()
    tried = draw(names[0], seconds)
    print(f"{names[0]}: {tried} tried, {tried / (time.monotonic() - began):.0f} a second", flush=True)


if __name__ == "__main__":
    main()
