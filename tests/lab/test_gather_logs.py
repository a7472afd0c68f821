"""`tproxy gather-logs` in a cluster with secrets in many places: it has what helps, and none of them."""

import json
import tarfile
from pathlib import Path
from typing import Any

import yaml
from tproxy_cli.gather.secrets import REMOVED

from tests.lab.scene import Scene

PLANTED = "pl4nted-Xyzzy-word"


def test_an_archive_has_what_helps_and_no_secret(scene: Scene, tmp_path: Path) -> None:
    config = yaml.safe_load(Path(scene.lab.layout.laptop_environment["KUBECONFIG"]).read_text())
    tokens = [user["user"]["token"] for user in config["users"]]
    config["users"].append({"name": "another", "user": {"password": f"{PLANTED}-password", "username": "ada"}})
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(yaml.safe_dump(config))
    match = f"x-session={PLANTED}-header"
    scene.intercept("--http-header", match)
    log = scene.log / "tproxy" / "daemon.log"
    with log.open("a") as file:
        file.write(f"something with {PLANTED}-header, {tokens[0]} and password={PLANTED}-typed\n")
    path = tmp_path / "help.tar.gz"
    try:
        where = ("-n", scene.namespace, "--kubeconfig", str(kubeconfig))
        done = scene.tproxy("gather-logs", "--file", str(path), *where)
        again = scene.tproxy("gather-logs", "--file", str(path), *where, check=False)
    finally:
        scene.tproxy("leave", "--all", "-n", scene.namespace, check=False)
    assert str(path) in done.stdout
    assert again.returncode == 2
    assert "exists" in again.stderr
    assert path.stat().st_mode & 0o777 == 0o600

    found = entries(path)
    everything = "\n".join(found.values())
    for secret in (PLANTED, *tokens):
        assert secret not in everything
    session = next(one for one in found if one.endswith(f"{scene.namespace}/sessions.json"))
    assert "tokenHash" not in found[session]

    assert "serves" in found["nodes/node1/daemon.log"]
    assert "serves" in found["nodes/node2/daemon.log"]
    assert f"something with {REMOVED}" in found["laptop/daemon.log"]
    intercepts = json.loads(found[f"cluster/{scene.namespace}/intercepts.json"])
    assert intercepts[0]["spec"]["target"]["name"] == "web"
    assert intercepts[0]["spec"]["match"]["headers"][0]["name"] == "x-session"
    status = json.loads(found["laptop/status.json"])
    assert status["clusters"]
    checks = json.loads(found["doctor.json"])
    assert {"kubeconfig", "api-server", "node-daemons"} <= {one["name"] for one in checks}
    assert json.loads(found["laptop/kubeconfig.json"])["user"]["has"] == ["token"]
    index: dict[str, Any] = json.loads(found["index.json"])
    assert {one["name"] for one in index["entries"]} == set(found) - {"index.json"}
    # A lab has no Events, for one: what could not be had is said, by name.
    assert all(one["why"] for one in index["missing"])
    assert "cluster/tproxy-system/events.json" in {one["name"] for one in index["missing"]}


def test_without_a_cluster_there_is_still_the_laptop(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "help.tar.gz"
    done = scene.tproxy("gather-logs", "--file", str(path), "--kubeconfig", str(tmp_path / "none"), check=False)
    assert done.returncode == 0, done.stderr
    found = entries(path)
    assert "laptop/versions.json" in found
    assert "cluster" in {one["name"] for one in json.loads(found["index.json"])["missing"]}


def entries(path: Path) -> dict[str, str]:
    """What is in an archive, without the directory that all of it is in."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
    return found
