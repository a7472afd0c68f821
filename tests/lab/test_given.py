"""The container's environment and files on the laptop, as a person gets them."""

import contextlib
import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tproxy_cli.daemon.given.directory import LIST

from tests.lab.laptop import Laptop
from tproxy.kube.port import CONFIGMAPS, NAMESPACES, PODS, SECRETS, SESSIONS

VARIABLES = {
    "GREETING": 'it\'s "$HOME" \\',
    "PEM": "-----BEGIN-----\nabc\n-----END-----\n",
    "PASSWORD": "s3cret-value",
    "my.property": "odd",
}
SOURCES = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {app.yaml: "colour: green\\n", extra: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {tls.key: s3cret-key, deep: s3cret-deep}
---
"""
VOLUMES = [
    {"name": "settings", "configMap": {"name": "settings"}},
    {"name": "keys", "secret": {"secretName": "keys", "items": [{"key": "deep", "path": "a/b/deep"}]}},
    {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
    {"name": "scratch", "emptyDir": {}},
    {"name": "machine", "hostPath": {"path": "/sys/kernel"}},
]
MOUNTS = [
    {"name": "settings", "mountPath": "/etc/web/config"},
    {"name": "keys", "mountPath": "/srv/keys"},
    {"name": "keys", "mountPath": "/srv/one-key", "subPath": "a/b/deep"},
    {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
    {"name": "scratch", "mountPath": "/srv/scratch"},
    {"name": "machine", "mountPath": "/srv/machine"},
]
SEEN = {
    "etc/web/config/app.yaml": "colour: green\n",
    "etc/web/config/extra": "1",
    "srv/keys/a/b/deep": "s3cret-deep",
    "srv/one-key": "s3cret-deep",
    "var/run/secrets/kubernetes.io/serviceaccount/token": "token-of-default-for-the API server",
}


class Person(Laptop):
    """Intercepts a Deployment `web` with two containers; the app is the second."""

    def ask(self, *arguments: str, check: bool = True) -> Any:
        line = ("intercept", "web", "-p", "3000:8080", "-n", self.namespace, "-o", "json", *arguments)
        done = self.tproxy(*line, check=check)
        return json.loads(done.stdout) if check else done

    def change(self, data: dict[str, str | None]) -> None:
        self.lab.client.patch(CONFIGMAPS, "settings", {"data": data}, self.namespace)


def on_disk(directory: Path) -> dict[str, str]:
    """Every file below a directory but the list, all of them for this user alone."""
    found = {}
    for path in directory.rglob("*"):
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0
        if path.is_file() and path.name != LIST:
            found[str(path.relative_to(directory))] = path.read_text()
    return found


@contextlib.contextmanager
def playing(lab: Any, namespace: str) -> Iterator[Person]:
    """A person in a namespace with the Deployment."""
    one = Person(lab, namespace)
    deployment, service = yaml.safe_load_all(lab.server("web"))
    spec = deployment["spec"]["template"]["spec"]
    spec["volumes"] = VOLUMES
    spec["containers"][0]["env"] += [{"name": name, "value": value} for name, value in VARIABLES.items()]
    spec["containers"][0]["env"] += [
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "tls.key"}}},
    ]
    spec["containers"][0]["volumeMounts"] = MOUNTS
    sidecar = {"name": "sidecar", "command": ["sleep", "infinity"], "env": [{"name": "WHO", "value": "sidecar"}]}
    spec["containers"].insert(0, sidecar)
    lab.apply(SOURCES + yaml.safe_dump_all([deployment, service]), namespace)
    try:
        yield one
    finally:
        one.tproxy("quit", check=False)


@pytest.fixture
def person(lab: Any, namespace: str) -> Iterator[Person]:
    with playing(lab, namespace) as one:
        yield one


def test_the_environment_in_a_file(person: Person, tmp_path: Path) -> None:
    file = tmp_path / "web.env"
    file.write_text("old")
    file.chmod(0o644)
    result = person.ask("--env-file", str(file), "--env-format", "sh", "--env-exclude", "*.*")
    assert "s3cret" not in json.dumps(result)
    assert result["source"]["container"] == "web"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shown = subprocess.run(["sh", "-c", '. "$0"; env -0', str(file)], capture_output=True, check=True, text=True).stdout
    seen = dict(entry.split("=", 1) for entry in shown.split("\0") if entry)
    assert {name: seen.get(name) for name in VARIABLES} == {**VARIABLES, "my.property": None}
    assert seen["KEY"] == "s3cret-key"
    assert seen["POD"].startswith("web-")
    assert seen["PATH"] == os.environ["PATH"]
    person.ask("--env-file", str(file), "--env-format", "json", "-c", "sidecar", "--env-exclude", "PY*")
    assert json.loads(file.read_text())["WHO"] == "sidecar"


def test_what_cannot_be_done_is_said_before_anything_is(person: Person, tmp_path: Path) -> None:
    for arguments, said in (
        (("--env-file", str(tmp_path)), "is a directory"),
        (("--env-file", "/proc/nowhere/x"), "cannot write"),
        (("--files", str(tmp_path)), "is not empty"),
        (("--env-file", str(tmp_path / "x"), "-c", "nobody"), "no container nobody"),
        (("-c", "web"), "none are asked for"),
        (("--env-exclude", "A"), "mean nothing without"),
    ):
        (tmp_path / "something").touch()
        done = person.ask(*arguments, check=False)
        assert done.returncode
        assert said in done.stderr, done.stderr
    assert person.json("list", "-n", person.namespace)["intercepts"] == []
    for form, variable in (("docker", "PEM"), ("sh", "my.property")):
        done = person.ask("--env-file", str(tmp_path / "x"), "--env-format", form, check=False)
        assert f"the variable {variable}" in done.stderr
    assert person.json("list", "-n", person.namespace)["intercepts"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_files_follow_until_leave(person: Person, tmp_path: Path) -> None:
    directory = tmp_path / "below" / "files"
    result = person.ask("--files", str(directory), "--env-file", str(tmp_path / "env"), "--env-format", "json")
    assert result["files"] == {"directory": str(directory), "count": len(SEEN)}
    assert on_disk(directory) == SEEN
    assert json.loads((tmp_path / "env").read_text())["TPROXY_FILES"] == str(directory)
    person.change({"app.yaml": "colour: blue\n", "extra": None, "new": "2"})
    changed = {**SEEN, "etc/web/config/app.yaml": "colour: blue\n", "etc/web/config/new": "2"}
    del changed["etc/web/config/extra"]
    person.lab.wait(lambda: on_disk(directory) == changed, "the change on disk")
    # Asked again it stays as it is, and another intercept may not have the same place.
    assert person.ask("--files", str(directory))["created"] is False
    # The pod goes, another comes: the files go on.
    pod = person.pods()[0]["name"]
    person.lab.client.delete(PODS, pod, person.namespace)
    person.lab.wait(lambda: [one["name"] for one in person.pods() if one["ready"]] not in ([], [pod]), "another pod")
    person.change({"app.yaml": "colour: red\n"})
    changed["etc/web/config/app.yaml"] = "colour: red\n"
    person.lab.wait(lambda: on_disk(directory) == changed, "the change of the new pod's on disk")
    person.leave()
    assert not directory.exists()
    assert "s3cret" not in "".join(path.read_text() for path in person.log.rglob("*.log"))


def test_a_killed_daemon_leaves_files_that_the_next_one_knows(person: Person, tmp_path: Path) -> None:
    directory = tmp_path / "files"
    directory.mkdir()
    person.ask("--files", str(directory))
    os.kill(person.pid(), signal.SIGKILL)
    person.change({"app.yaml": "colour: blue\n"})
    person.lab.wait(lambda: person.json("list", "-n", person.namespace)["intercepts"], "the next daemon")
    read = (directory / "etc/web/config/app.yaml").read_text
    person.lab.wait(lambda: read() == "colour: blue\n", "the change on disk")
    person.tproxy("quit")
    person.lab.wait(lambda: list(directory.iterdir()) == [], "an empty directory")


def test_the_environment_without_an_intercept(person: Person) -> None:
    asked = ("env", "web", "-n", person.namespace)
    seen = json.loads(person.tproxy(*asked, "-c", "web", "--env-format", "json", "--env-exclude", "POD").stdout)
    assert {name: seen.get(name) for name in VARIABLES} == VARIABLES
    assert not {"PATH", "HOME", "POD"} & seen.keys()
    assert json.loads(person.tproxy(*asked, "--env-format", "json").stdout)["WHO"] == "sidecar"
    assert person.lab.client.list(SESSIONS, person.namespace) == []
    done = person.tproxy(*asked, "-c", "wbe", check=False)
    assert "has no container wbe" in done.stderr
    assert "`web`" in done.stderr
    done = person.tproxy(*asked, "-c", "web", "--env-format", "docker", check=False)
    assert "`compose`" in done.stderr
    assert done.stdout == ""


def test_where_nodes_do_not_read_the_users_own_rights_count(other_lab: Any, tmp_path: Path) -> None:
    other_lab.client.create(NAMESPACES, {"metadata": {"name": "own"}})
    with playing(other_lab, "own") as person:
        shown = json.loads(person.tproxy("env", "web", "-n", "own", "-c", "web", "--env-format", "json").stdout)
        assert shown == {**VARIABLES, "KEY": "s3cret-key", "POD": person.pods()[0]["name"]}
        person.ask("--files", str(tmp_path / "files"))
        assert "not current" not in person.tproxy("status").stdout
        without_token = {path: text for path, text in SEEN.items() if not path.endswith("/token")}
        assert on_disk(tmp_path / "files") == without_token  # the lab's API server makes no tokens
        person.leave()
        person.lab.client.delete(SECRETS, "keys", "own")
        done = person.tproxy("env", "web", "-n", "own", "-c", "web", check=False)
        assert 'secret "keys" not found' in done.stderr
