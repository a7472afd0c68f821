"""`tproxy run --sudo`: root makes the namespaces, and the command is the user's as ever."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.run_laptop import Laptop, process_inside
from tproxy.lab.ordinary import USER

# What sudo comes down to, for the tests' user alone.
SUDO = r"""
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
    while (*++words && strcmp(*words, "--")) ;
    if (!*words || setresgid(0, 0, 0) || setresuid(0, 0, 0)) return 1;
    execv(words[1], words + 1);
    return 127;
}
"""


@pytest.fixture
def path(laptop: Laptop) -> Iterator[str]:
    """A PATH with a sudo of ours in front."""
    directory = laptop.home.parent / "sudo"
    directory.mkdir(mode=0o755)
    source = directory / "sudo.c"
    source.write_text(SUDO)
    binary = directory / "sudo"
    subprocess.run(["gcc", "-o", str(binary), str(source)], check=True)
    os.chown(binary, 0, USER)
    binary.chmod(0o4750)
    yield f"{directory}:{laptop.environment['PATH']}"
    binary.unlink()


def test_the_command_is_the_users_own(laptop: Laptop, path: str) -> None:
    environment = {"PATH": path, "MARK": "x"}
    script = "id -u; id -g; pwd; echo $MARK; grep Cap /proc/self/status; getent ahostsv4 web | head -1; cat"
    with_sudo, without = (
        laptop.run("sh", "-c", script, text="stdin\n", options=options, environment=environment)
        for options in (("sudo",), ())
    )
    assert with_sudo.returncode == 0, with_sudo.stderr
    assert with_sudo.stdout == without.stdout
    assert "10.96.0.7" in with_sudo.stdout


def test_nothing_of_roots_is_left_in_what_stays(laptop: Laptop, path: str) -> None:
    process = laptop.begin(
        "sh", "-c", "echo up; read line; exit 5", options=("sudo",), environment={"PATH": path}, stdin=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    inside = Path(f"/proc/{process_inside()}")
    fields = dict(line.split(":\t", 1) for line in (inside / "status").read_text().splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(USER)] * 4
    assert fields["Gid"].split() == [str(USER)] * 4
    # Its rights are over namespaces of the user's, no longer over the machine.
    assert os.readlink(inside / "ns/user") != os.readlink("/proc/self/ns/user")
    assert (inside / "uid_map").read_text().split() == [str(USER), str(USER), "1"]
    process.communicate("\n", timeout=20)
    assert process.returncode == 5


def test_files_at_their_paths_as_well(laptop: Laptop, path: str) -> None:
    done = laptop.run("cat", "/at-the-top/colour", options=("sudo", "given", "@"), environment={"PATH": path})
    assert done.stdout in ("green", "red"), done.stderr


def test_sudo_refused(laptop: Laptop, path: str) -> None:
    (laptop.home.parent / "sudo" / "sudo").chmod(0o750)  # and so without root's rights
    done = laptop.run("true", options=("sudo",), environment={"PATH": path})
    assert done.returncode == 4
    assert "sudo did not start" in done.stderr
    assert "hint: " in done.stderr
