"""Files of a container in a run: at paths that the laptop does not have, while everything else of the laptop stays."""

import os
import signal

from tproxy_cli.given import AT_THEIR_PATHS

from tests.kernel.run_daemon import MOUNTS, ONE_FILE
from tests.kernel.run_laptop import Laptop, process_inside, processes, until

GIVEN = ("given", AT_THEIR_PATHS)
TOP = ("/", "/etc", "/run", "/var/lib", "/usr")


def _names(text: str) -> dict[str, list[str]]:
    """Directories and what is in them, of what `ls -A1` of several says."""
    return {part.split("\n")[0].rstrip(":"): part.split("\n")[1:] for part in text.strip().split("\n\n")}


def test_they_are_at_their_paths_and_everything_else_is_as_it_was(laptop: Laptop) -> None:
    before = {path: set(os.listdir(path)) for path in TOP}
    done = laptop.run("ls", "-A1", *TOP, options=GIVEN)
    assert done.returncode == 0, done.stderr
    added = {path: set(names) - before[path] for path, names in _names(done.stdout).items()}
    assert added == {
        "/": {"at-the-top", "at-the-top-too"},
        "/etc": {"below", "one-file"},
        "/run": {"one", "two"},
        "/var/lib": set(),
        "/usr": set(),
    }
    assert all(before[path] <= set(names) for path, names in _names(done.stdout).items())
    assert {path: set(os.listdir(path)) for path in TOP} == before
    script = f"""
        for path in {" ".join(f"{path}/colour" for path in MOUNTS)} {ONE_FILE}; do
            grep -Eq 'green|red' $path && test -x $path && ! touch $path 2>/dev/null || echo wrong $path
        done
        getent hosts web.shop.svc.cluster.local
        echo $GREETING $HOME $TPROXY_FILES; pwd; echo kept >mine; cat /proc/self/comm
        mkdir /new 2>/dev/null || echo the system stays the system
    """
    done = laptop.run("sh", "-c", script, options=GIVEN)
    inside = laptop.home / "tproxy" / "inside" / "files"
    assert done.stdout.splitlines() == [
        "10.96.0.7       web.shop.svc.cluster.local",
        f"hello {laptop.home} {inside}",
        str(laptop.home),
        "cat",
        "the system stays the system",
    ], done.stderr
    assert (laptop.home / "mine").read_text() == "kept\n"
    assert list(inside.parent.iterdir()) == []


def test_they_change_while_the_command_runs(laptop: Laptop) -> None:
    script = "for colour in green red green red; do until grep -q $colour /at-the-top/colour; do sleep 0.05; done; done"
    done = laptop.run("sh", "-c", script, options=GIVEN)
    assert done.returncode == 0, done.stderr


def test_a_directory_of_the_laptops_has_them_too_and_is_removed(laptop: Laptop) -> None:
    directory = laptop.home / "copy"
    code = f"test -s {directory}/at-the-top/colour && test -s /at-the-top/colour && stat -c %a {directory}"
    assert laptop.run("sh", "-c", code, options=("given", str(directory))).stdout == "700\n"
    assert not directory.exists()


def test_whoever_is_killed_nothing_is_left_on_the_laptop(laptop: Laptop) -> None:
    before = {path: set(os.listdir(path)) for path in (*TOP, str(laptop.home))}
    for victim in ("command line", "inside"):
        process = laptop.begin("sh", "-c", "echo up; sleep 1000", options=GIVEN)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid if victim == "command line" else process_inside(), signal.SIGKILL)
        process.communicate(timeout=20)
        until(lambda: not [line for line in processes() if "run_daemon" not in line], "everything has ended")
        assert {path: set(os.listdir(path)) for path in before} == before
