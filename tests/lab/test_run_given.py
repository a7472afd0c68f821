"""`tproxy run --env --files`: the container's variables, and its files at the paths that they have in the container."""

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tproxy_cli.daemon.given.directory import LIST

from tests.lab.laptop import TPROXY
from tests.lab.person import Person
from tests.lab.test_given import MOUNTS, SEEN, SOURCES, VARIABLES, VOLUMES
from tproxy.kube.port import CONFIGMAPS, NAMESPACES

# Says what it sees, as JSON, again for each line that it reads.
SEEING = """
import json, os, sys
paths = sys.argv[1:]
def see(path):
    try:
        if os.path.isdir(path): return sorted(name for name in os.listdir(path))
        return open(path).read()
    except OSError as error: return error.strerror
while True:
    print(json.dumps({"paths": {path: see(path) for path in paths}, "environment": dict(os.environ)}), flush=True)
    if not sys.stdin.readline(): break
"""


class Seeing(Person):
    """A person whose Deployment has settings."""

    def see(self, *paths: str, options: Any = (), environment: Any = None) -> Any:
        done = self.run(
            sys.executable, "-c", SEEING, *paths, options=["--as", "web", *options], environment=environment or {}
        )
        return json.loads(done.stdout.splitlines()[0])

    def top(self) -> Any:
        """What is in the laptop's directories that the container has paths in."""
        return {path: sorted(os.listdir(path)) for path in ("/", "/etc", "/srv", "/run", str(self.home))}


@pytest.fixture(scope="module")
def person(lab: Any) -> Iterator[Seeing]:
    lab.client.create(NAMESPACES, {"metadata": {"name": "given"}})
    one = Seeing(lab, "given")
    deployment, service = yaml.safe_load_all(lab.server("web"))
    spec = deployment["spec"]["template"]["spec"]
    here = str(one.home / "container")
    spec["volumes"] = VOLUMES
    spec["containers"][0]["env"] += [{"name": name, "value": value} for name, value in VARIABLES.items()]
    spec["containers"][0]["env"] += [{"name": name, "value": "nonsense"} for name in ("HOME", "TERM")]
    spec["containers"][0]["volumeMounts"] = [
        *MOUNTS,
        {"name": "settings", "mountPath": here},
        {"name": "settings", "mountPath": "/etc/passwd", "subPath": "extra"},
    ]
    sidecar = {"name": "sidecar", "command": ["sleep", "infinity"], "env": [{"name": "WHO", "value": "sidecar"}]}
    spec["containers"].append(sidecar)
    lab.apply(SOURCES + yaml.safe_dump_all([deployment, service]), "given")
    try:
        yield one
    finally:
        one.close()


def test_the_variables_of_the_container(person: Seeing) -> None:
    seen = person.see(options=["--env"], environment={"PASSWORD": "mine", "TERM": "dumb"})["environment"]
    assert {name: seen[name] for name in VARIABLES} == VARIABLES | {"PASSWORD": "mine"}
    assert (seen["HOME"], seen["TERM"]) == (str(person.home), "dumb")
    assert seen["POD"].startswith("web-")
    assert "nonsense" not in seen.values()
    # A pattern brings back what is the container's own, and makes the container's value win.
    seen = person.see(options=["--env", "--env-include", "TERM", "--env-exclude", "P*"], environment={"TERM": "dumb"})
    assert seen["environment"]["TERM"] == "nonsense"
    assert "PASSWORD" not in seen["environment"]
    assert person.see(options=["--env", "-c", "sidecar"])["environment"]["WHO"] == "sidecar"
    assert "GREETING" not in person.see()["environment"]


def test_what_the_laptop_has_instead_is_said_without_its_value(person: Seeing) -> None:
    done = person.run("true", options=["--as", "web", "--env"], environment={"PASSWORD": "mine"})
    assert "PASSWORD" in done.stderr
    assert "s3cret" not in done.stderr
    log = "".join(path.read_text() for path in (person.home / "state").rglob("*") if path.is_file())
    assert log
    assert "s3cret" not in log


def test_files_at_their_paths(person: Seeing) -> None:
    before = person.top()
    paths = [f"/{path}" for path in SEEN]
    here = str(person.home / "container" / "app.yaml")
    seen = person.see(*paths, here, "/etc/hostname", "/proc/self/comm", "/", options=["--files"])
    wanted = {f"/{path}": text for path, text in SEEN.items()} | {here: "colour: green\n"}
    assert {path: text for path, text in seen["paths"].items() if path in wanted} == wanted
    assert seen["paths"]["/etc/hostname"] == Path("/etc/hostname").read_text()
    assert seen["paths"]["/proc/self/comm"].startswith("python")
    assert set(seen["paths"]["/"]) == set(before["/"])
    assert Path(seen["environment"]["TPROXY_FILES"]).is_relative_to(person.home)
    assert person.top() == before


def test_files_are_for_this_user_alone_and_cannot_be_written(person: Seeing) -> None:
    script = """
        umask 0
        stat -c %a /srv/keys/a/b/deep $TPROXY_FILES
        echo x 2>/dev/null >/etc/web/config/app.yaml || echo read-only
        touch /etc/web/config/new 2>/dev/null || echo read-only
        touch ~/mine && echo writable
        curl -sS http://web/ >/dev/null && echo network
    """
    done = person.run("sh", "-c", script, options=["--as", "web", "--files"])
    assert done.stdout.split() == ["600", "700", "read-only", "read-only", "writable", "network"], done.stderr
    (person.home / "mine").unlink()


def test_what_the_command_needs_is_not_covered_and_that_is_said(person: Seeing) -> None:
    done = person.run("sh", "-c", "cat $TPROXY_FILES/etc/passwd; id -u", options=["--as", "web", "--files"])
    assert done.stdout.startswith("1")
    assert "warning: /etc/passwd is not the container's: the command needs the laptop's /etc/passwd" in done.stderr
    assert person.run("true", options=["--as", "web"]).stderr == ""


def test_files_follow_the_container_and_the_directory_is_removed(person: Seeing) -> None:
    directory = person.home / "copy"
    paths = ("/etc/web/config", "/etc/web/config/app.yaml")
    options = ["--as", "web", "--files", str(directory)]
    with person.begin(sys.executable, "-c", SEEING, *paths, options=options, stdin=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def see() -> Any:
            return json.loads(process.stdout.readline())["paths"]

        def now() -> Any:
            process.stdin.write("\n")
            process.stdin.flush()
            return see()

        assert see()["/etc/web/config"] == ["app.yaml", "extra"]
        assert (directory / "etc/web/config/app.yaml").read_text() == "colour: green\n"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert (directory / LIST).exists()
        refused = person.run("true", options=options, check=False)
        assert "has the files of another run" in refused.stderr
        assert "hint: " in refused.stderr
        try:
            for data in (
                {"app.yaml": "colour: red\n"},
                {"app.yaml": None, "extra": None},  # the volume stays mounted though there is nothing in it
                {"app.yaml": "colour: blue\n"},
            ):
                person.lab.client.patch(CONFIGMAPS, "settings", {"data": data}, "given")
                text = data["app.yaml"] or "No such file or directory"
                person.lab.wait(lambda t=text: now()["/etc/web/config/app.yaml"] == t, f"{data} is seen")
        finally:
            person.lab.client.patch(
                CONFIGMAPS, "settings", {"data": {"app.yaml": "colour: green\n", "extra": "1"}}, "given"
            )
        process.stdin.close()
        assert process.wait(20) == 0
    assert not directory.exists()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--env"], 2, "no workload is named"),
        (["--files"], 2, "no workload is named"),
        (["--as", "web", "--env-include", "A"], 2, "mean nothing without `--env`"),
        (["--as", "web", "-c", "web"], 2, "none are asked for"),
        (["--as", "web", "--env", "-c", "nobody"], 2, "no container nobody"),
        (["--as", "web", "--files", "/etc"], 1, "/etc"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_command_starts(
    person: Seeing, options: list[str], status: int, said: str
) -> None:
    done = person.run("touch", "started", options=options, check=False)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (person.home / "started").exists()


def test_the_command_of_an_intercept_has_them_too(person: Seeing) -> None:
    file = person.home / "web.env"
    words = ("intercept", "web", "-p", "8080", "--env", "--files", "--env-file", str(file), "--", sys.executable)
    done = person.exec(sys.executable, *TPROXY[1:], *words, "-c", SEEING, "/etc/web/config/app.yaml")
    seen = json.loads(done.stdout.splitlines()[0])
    assert seen["paths"] == {"/etc/web/config/app.yaml": "colour: green\n"}
    assert seen["environment"]["GREETING"] == VARIABLES["GREETING"]
    assert "s3cret" in file.read_text()
    done = person.tproxy("intercept", "web", "-p", "8080", "--env", check=False)
    assert done.returncode == 2
    assert "for a command" in done.stderr


@pytest.mark.parametrize("what", ["environment", "files"])
def test_an_administrator_may_have_switched_it_off(own_lab: Any, what: str) -> None:
    lab = own_lab("--nodes", "1", f"--daemon-flag=--{what}=off")
    lab.client.create(NAMESPACES, {"metadata": {"name": "off"}})
    lab.apply(lab.server("web"), "off")
    person = Person(lab, "off")
    try:
        flag = {"environment": "--env", "files": "--files"}[what]
        done = person.run("touch", "started", options=["--as", "web", flag], check=False)
        assert done.returncode == 4, done.stderr
        assert "hint: " in done.stderr
        assert not (person.home / "started").exists()
        assert person.run("echo", "without", options=["--as", "web"]).stdout == "without\n"
    finally:
        person.close()
