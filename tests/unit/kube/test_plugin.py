"""Credential plugins: what they are told, what they may say, and the person at the terminal."""

import base64
import json
import os
import pty
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kube import certificates
from tests.unit.kube.certificates import Certificates
from tests.unit.kube.test_config import kubeconfig, loaded
from tproxy.errors import DeniedError
from tproxy.kube import plugin as plugin_module

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


def plugin(tmp_path: Path, body: str) -> dict[str, Any]:
    """A user with a credential plugin: `body` is Python that prints with `give(**status)`."""
    script = tmp_path / "login"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "info = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "def give(**status):\n"
        "    print(json.dumps({'apiVersion': info['apiVersion'], 'kind': 'ExecCredential', 'status': status}))\n"
        f"{body}\n"
    )
    script.chmod(0o700)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(script),
            "args": ["a"],
            "env": [{"name": "WHO", "value": "ada"}],
            "installHint": "install login",
            "interactiveMode": "Never",
        }
    }


def test_a_plugins_token_is_renewed_before_it_expires(tmp_path: Path) -> None:
    expires = datetime.now(UTC) + timedelta(minutes=10)
    user = plugin(
        tmp_path,
        f"give(token=os.environ['WHO'] + sys.argv[1], expirationTimestamp={expires.isoformat()!r})",
    )
    access = loaded(tmp_path, user).access
    assert access.headers == (("Authorization", "Bearer adaa"),)
    assert access.renew_at == pytest.approx(expires.timestamp() - 60, abs=1)


def test_a_plugin_that_gives_short_lived_tokens_is_not_run_for_every_request(tmp_path: Path) -> None:
    user = plugin(tmp_path, "give(token='t', expirationTimestamp='2020-01-01T00:00:00Z')")
    renew_at = loaded(tmp_path, user).access.renew_at
    assert renew_at is not None
    assert renew_at > time.time() + 3


def test_a_plugins_certificate(tmp_path: Path, pem: Certificates) -> None:
    user = plugin(
        tmp_path,
        f"give(clientCertificateData={pem.client.read_text()!r}, clientKeyData={pem.client_key.read_text()!r})",
    )
    access = loaded(tmp_path, user, server="https://api:1").access
    assert access.headers == ()
    assert access.tls is not None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("sys.exit('log in\\nfirst')", "failed: exit status 1: log in first"),
        ("print('gibberish')", "failed: what it printed is no ExecCredential"),
        ("print('{}')", "failed: what it printed is no ExecCredential"),
        ("print('[]')", "failed: what it printed is no ExecCredential"),
        ("info['apiVersion'] = 'v2'; give(token='t')", "failed: it printed ExecCredential of v2, where"),
        ("give()", "gave neither a token nor a client certificate"),
    ],
)
def test_a_plugin_that_fails_is_named_with_what_it_said(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(DeniedError) as raised:
        loaded(tmp_path, plugin(tmp_path, body))
    assert says in raised.value.message
    assert str(tmp_path / "login") in raised.value.message


def test_a_plugin_that_is_not_installed(tmp_path: Path) -> None:
    user = plugin(tmp_path, "")
    user["exec"]["command"] = "tproxy-no-such-plugin"
    with pytest.raises(DeniedError) as raised:
        loaded(tmp_path, user)
    assert raised.value.message == 'the credential plugin `tproxy-no-such-plugin` of user "u" is not installed'
    assert raised.value.hint == "install login"


def test_a_plugin_entry_that_is_nonsense(tmp_path: Path) -> None:
    api = "client.authentication.k8s.io/v1"
    for entry in (
        "x",
        {},
        {"command": "true"},
        {"command": "true", "apiVersion": "client.authentication.k8s.io/v1alpha1"},
        {"command": ["x"], "apiVersion": api},
        {"command": "true", "apiVersion": api, "args": 1},
        {"command": "true", "apiVersion": api, "env": [{"name": "A"}]},
        {"command": "/dev/null", "apiVersion": api},
    ):
        with pytest.raises(DeniedError):
            loaded(tmp_path, {"exec": entry})


def test_a_plugin_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_module, "PLUGIN_SECONDS", 0.5)
    user = plugin(tmp_path, "")
    user["exec"]["command"], user["exec"]["args"] = "sh", ["-c", "echo open the page >&2; exec sleep 60"]
    with pytest.raises(DeniedError, match="failed: it did not end within 0 s: open the page"):
        loaded(tmp_path, user)


def told(tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a plugin is told, which gives that as its token."""
    headers = dict(loaded(tmp_path, user, cluster, "https://api:1").access.headers)
    spec: dict[str, Any] = json.loads(headers["Authorization"].removeprefix("Bearer "))["spec"]
    return spec


def test_a_plugin_is_told_of_the_cluster_if_it_wants_that(tmp_path: Path, pem: Certificates) -> None:
    user = plugin(tmp_path, "give(token=json.dumps(info))")
    extensions = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}, {"name": "other"}]
    cluster = {
        "certificate-authority": str(pem.authority),
        "tls-server-name": "api.test",
        "proxy-url": "socks5://p:1",
        "extensions": extensions,
    }
    assert told(tmp_path, user, cluster) == {"interactive": False}
    user["exec"]["provideClusterInfo"] = True
    assert told(tmp_path, user, cluster) == {
        "interactive": False,
        "cluster": {
            "server": "https://api:1",
            "tls-server-name": "api.test",
            "proxy-url": "socks5://p:1",
            "certificate-authority-data": base64.b64encode(pem.authority.read_bytes()).decode(),
            "config": {"audience": "x"},
        },
    }


def at_a_terminal(tmp_path: Path, user: dict[str, Any], typed: str) -> str:
    """What a terminal shows while credentials are got there, with the headers at the end."""
    path = kubeconfig(tmp_path, user)
    code = f"from tproxy.kube.config import load; print(load({path!r}).access.headers)"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        while True:
            try:
                got = os.read(ours, 65536)
            except OSError:  # a terminal that nobody has open any more
                break
            shown += got
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


ASKING = "print('code?', file=sys.stderr, flush=True); give(token=input() if info['spec']['interactive'] else 'none')"


@pytest.mark.parametrize("mode", ["IfAvailable", "Always", None])
def test_a_plugin_may_ask_at_a_terminal(tmp_path: Path, mode: str | None) -> None:
    user = plugin(tmp_path, ASKING)
    user["exec"]["interactiveMode"] = mode
    shown = at_a_terminal(tmp_path, user, "s3cret\n")
    assert "code?" in shown
    assert "Bearer s3cret" in shown


def test_a_plugin_that_never_asks(tmp_path: Path) -> None:
    shown = at_a_terminal(tmp_path, plugin(tmp_path, ASKING), "s3cret\n")
    assert "code?" not in shown
    assert "Bearer none" in shown


def test_without_a_terminal_nobody_is_asked(tmp_path: Path) -> None:
    user = plugin(tmp_path, ASKING)
    user["exec"]["interactiveMode"] = "IfAvailable"
    assert loaded(tmp_path, user).access.headers == (("Authorization", "Bearer none"),)
    user["exec"]["interactiveMode"] = "Always"
    with pytest.raises(DeniedError, match=r"always asks on a terminal \(interactiveMode: Always\)") as raised:
        loaded(tmp_path, user)
    assert "IfAvailable" in raised.value.hint


def test_without_a_terminal_a_plugin_finds_nothing_to_read(tmp_path: Path) -> None:
    """It would wait for ever at somebody else's pipe."""
    user = plugin(tmp_path, "give(token='nothing' if not sys.stdin.read() else 'something')")
    user["exec"]["interactiveMode"] = "IfAvailable"
    path = kubeconfig(tmp_path, user)
    code = f"from tproxy.kube.config import load; print(load({path!r}).access.headers)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"Bearer nothing" in process.stdout.read()
