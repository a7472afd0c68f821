"""`run` where the kernel lets no ordinary user have namespaces: what is in the way, and a remedy, from the kernel's no.

Limits are real ones. What forbids is a filter of system calls, as in containers; AppArmor's own behaviour, and Debian's
setting, need kernels that have them: here it is their names that are found (see tests/unit/cli_run/test_restricted.py).
"""

import subprocess
from pathlib import Path

import pytest

from tests.kernel.run_laptop import DEADLINE, Laptop


@pytest.fixture
def laptop_with(laptop: Laptop) -> Laptop:
    assert laptop.run("true").returncode == 0, "nothing is in the way but what a test puts there"
    return laptop


def run(laptop: Laptop, kind: str) -> "subprocess.CompletedProcess[str]":
    """A run in which `kind` is restricted, and what is said of it."""
    marker = laptop.home / "ran"
    process = laptop.start(
        "tests.kernel.run_restricted",
        *(kind, "--", "touch", str(marker)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=DEADLINE)
    assert not marker.exists()
    return subprocess.CompletedProcess(kind, process.returncode, out, err)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("user", "a user namespace"), ("net", "a network namespace"), ("mnt", "a mount namespace")],
)
def test_a_limit_is_named_with_its_remedy(laptop_with: Laptop, kind: str, what: str) -> None:
    done = run(laptop_with, kind)
    assert done.returncode == 4
    why = f"user.max_{kind}_namespaces"
    assert f"error: this system does not let you have {what}: {why} is 0\n" in done.stderr
    assert f"hint: `sudo sysctl {why}=1000`\n" in done.stderr


@pytest.mark.parametrize(
    ("kind", "why", "remedy"),
    [
        ("container", "this container forbids it", "`--security-opt seccomp=unconfined`"),
        ("debian", "kernel.unprivileged_userns_clone is 0", "`sudo sysctl kernel.unprivileged_userns_clone=1`"),
        ("apparmor", "AppArmor restricts", "sudo apparmor_parser -r /etc/apparmor.d/tproxy"),
    ],
)
def test_who_forbids_it_is_named_with_a_remedy(laptop_with: Laptop, kind: str, why: str, remedy: str) -> None:
    done = run(laptop_with, kind)
    assert done.returncode == 4
    assert f"error: this system does not let you have a user namespace: {why}" in done.stderr
    assert remedy in done.stderr
    assert ("tproxy run --sudo" in done.stderr) == (kind != "container")


def test_nothing_is_left_of_it(laptop_with: Laptop) -> None:
    before = namespaces()
    run(laptop_with, "net")
    assert namespaces() == before
    assert laptop_with.run("true").returncode == 0


def namespaces() -> set[str]:
    """The network namespaces that processes of this machine are in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(str((process / "ns" / "net").readlink()))
        except OSError:
            continue
    return found
