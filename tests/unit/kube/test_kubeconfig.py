"""Kubeconfig files: search, merging, and what is said of broken ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tproxy.errors import ClusterError
from tproxy.kube.kubeconfig import find, read


def write(path: Path, **content: Any) -> str:
    """A kubeconfig with contexts, clusters and users given as dicts by name."""
    for section in ("contexts", "clusters", "users"):
        if section in content:
            content[section] = [{"name": name, section[:-1]: entry} for name, entry in content.pop(section).items()]
    content = {key.replace("_", "-"): value for key, value in content.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return str(path)


def simple(path: Path, name: str = "dev", **more: Any) -> str:
    return write(
        path,
        contexts={name: {"cluster": "c", "user": "u", "namespace": "shop"}},
        clusters={"c": {"server": "https://api:6443"}},
        users={"u": {"token": "t"}},
        **more,
    )


def test_where_kubeconfigs_are_looked_for(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert find(None, home) == ()
    default = simple(tmp_path / ".kube" / "config")
    assert find(None, home) == (default,)
    one, two = simple(tmp_path / "one"), simple(tmp_path / "two")
    assert find(None, home | {"KUBECONFIG": one}) == (one,)
    assert find(None, home | {"KUBECONFIG": f"{one}:{tmp_path}/missing::{two}"}) == (one, two)
    assert find(two, home | {"KUBECONFIG": one}) == (two,)
    assert find(None, home | {"KUBECONFIG": ""}) == (default,)


def test_a_kubeconfig_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    for argument, environ in ((f"{tmp_path}/no", {}), (None, {"KUBECONFIG": f"{tmp_path}/no"})):
        with pytest.raises(ClusterError) as raised:
            find(argument, environ)
        assert raised.value.message == f"the kubeconfig {tmp_path}/no does not exist"
        assert "`sudo tproxy lab up`" in raised.value.hint


def test_the_first_file_wins(tmp_path: Path) -> None:
    first = write(
        tmp_path / "1", contexts={"a": {"cluster": "c", "user": "u"}}, clusters={"c": {"server": "https://1"}}
    )
    second = write(
        tmp_path / "2",
        current_context="a",
        contexts={"a": {"cluster": "other"}, "b": {"cluster": "c", "namespace": "shop"}},
        clusters={"c": {"server": "https://2"}},
        users={"u": {"token": "from-second"}},
    )
    third = write(tmp_path / "3", current_context="b")
    config = read((first, second, third))
    assert config.current == "a"
    context = config.context(None)
    assert (context.name, context.namespace, context.user_name) == ("a", "default", "u")
    assert context.cluster["server"] == "https://1"
    assert context.user == {"token": "from-second"}
    assert config.context("b").namespace == "shop"
    assert config.context("b").user == {}


def test_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "sub" / "config",
        contexts={"a": {"cluster": "c", "user": "u"}},
        clusters={"c": {"server": "https://1", "certificate-authority": "ca.pem"}},
        users={
            "u": {
                "client-certificate": "../me.pem",
                "client-key": "/abs/me.key",
                "exec": {"command": "./login", "apiVersion": "v1"},
            }
        },
    )
    context = read((path,)).context("a")
    assert context.cluster["certificate-authority"] == str(tmp_path / "sub" / "ca.pem")
    assert context.user["client-certificate"] == str(tmp_path / "me.pem")
    assert context.user["client-key"] == "/abs/me.key"
    assert context.user["exec"]["command"] == str(tmp_path / "sub" / "login")


def test_contexts_that_do_not_exist(tmp_path: Path) -> None:
    path = write(
        tmp_path / "config",
        contexts={
            "production": {"cluster": "c", "user": "u"},
            "staging": {"cluster": "gone", "user": "u"},
            "dev": {"cluster": "c", "user": "nobody"},
        },
        clusters={"c": {"server": "https://api"}},
        users={"u": {}},
    )
    config = read((path,))
    cases = {
        None: f"no current context is set in {path}",
        "prodution": f'there is no context "prodution" in {path}',
        "zzz": f'there is no context "zzz" in {path}',
        "staging": f'context "staging" names the cluster "gone", which has no server in {path}',
        "dev": f'context "dev" names the user "nobody", who is not in {path}',
    }
    for name, message in cases.items():
        with pytest.raises(ClusterError) as raised:
            config.context(name)
        assert raised.value.message == message
        assert raised.value.exit_code == 3
    with pytest.raises(ClusterError) as raised:
        config.context("prodution")
    assert raised.value.hint == "did you mean `production`?"
    with pytest.raises(ClusterError) as raised:
        config.context("zzz")
    assert raised.value.hint == "the contexts there are: `dev`, `production`, `staging`"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: b\nc: d: e", ", line 2 cannot be parsed: "),
        ("{{{", "cannot be parsed: "),
        ("\x00", "cannot be parsed: "),
        ("just text", "is no kubeconfig: it holds no mapping"),
        ("- 1", "is no kubeconfig: it holds no mapping"),
        ("contexts: {}\nclusters: 1", "cannot be parsed: clusters is no list"),
        ("users: [{}]", "cannot be parsed: an entry of users has no name"),
        ("users: [{name: u, user: 3}]", "cannot be parsed: users 'u' is no mapping"),
    ],
)
def test_files_that_are_no_kubeconfig(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ClusterError) as raised:
        read((str(path),))
    assert says in raised.value.message
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message
    assert "`" in raised.value.hint, "a next command"


def test_an_empty_file_has_no_context(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    with pytest.raises(ClusterError, match="no current context is set"):
        read((str(tmp_path / "config"),)).context(None)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cannot be read: Is a directory") as raised:
        read((str(tmp_path),))
    assert raised.value.hint
