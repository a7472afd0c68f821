"""From a kubeconfig's user to what requests carry."""

import base64
import dataclasses
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kube import certificates
from tests.unit.kube.certificates import Certificates
from tests.unit.kube.test_kubeconfig import write
from tproxy.errors import ClusterError, DeniedError
from tproxy.kube import config as config_module
from tproxy.kube.config import ClusterConfig, load


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


def kubeconfig(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None, server: str = "http://api:1/"
) -> str:
    return write(
        tmp_path / "config",
        current_context="dev",
        contexts={"dev": {"cluster": "c", "user": "u", "namespace": "shop"}},
        clusters={"c": {"server": server} | (cluster or {})},
        users={"u": user},
    )


def loaded(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None, server: str = "http://api:1/"
) -> ClusterConfig:
    return load(kubeconfig(tmp_path, user, cluster, server), None, {})


def test_a_token(tmp_path: Path) -> None:
    config = loaded(tmp_path, {"token": "secret-token"})
    assert (config.server, config.namespace, config.context) == ("http://api:1", "shop", "dev")
    assert config.access.headers == (("Authorization", "Bearer secret-token"),)
    assert config.access.tls is None
    assert config.access.renew_at is None
    assert "secret-token" not in repr(config)


def test_fresh_credentials_are_read_from_the_file_again(tmp_path: Path) -> None:
    config = loaded(tmp_path, {"token": "old"})
    kubeconfig(tmp_path, {"token": "new"})
    assert config.renew().headers == (("Authorization", "Bearer new"),)


def test_a_token_file_is_read_again_after_a_while(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    config = loaded(tmp_path, {"tokenFile": "token"})
    assert config.access.headers == (("Authorization", "Bearer first"),)
    assert config.access.renew_at is not None
    assert 0 < config.access.renew_at - time.time() <= 60
    (tmp_path / "token").write_text("second\n")
    assert config.renew().headers == (("Authorization", "Bearer second"),)
    (tmp_path / "token").unlink()
    with pytest.raises(ClusterError, match='token, needed by context "dev", cannot be read: No such file'):
        config.renew()


def test_a_token_file_goes_before_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("fresh")
    access = loaded(tmp_path, {"tokenFile": "token", "token": "old"}).access
    assert access.headers == (("Authorization", "Bearer fresh"),)


def test_a_password(tmp_path: Path) -> None:
    ((name, value),) = loaded(tmp_path, {"username": "ada", "password": "pw"}).access.headers
    assert (name, base64.b64decode(value.removeprefix("Basic "))) == ("Authorization", b"ada:pw")


def test_nobody(tmp_path: Path) -> None:
    assert loaded(tmp_path, {}).access.headers == ()


def test_impersonation(tmp_path: Path) -> None:
    user = {
        "token": "t",
        "as": "jane",
        "as-uid": "7",
        "as-groups": ["dev", "ops"],
        "as-user-extra": {"example.com/Scope": ["a", "b"]},
    }
    assert loaded(tmp_path, user).access.headers == (
        ("Authorization", "Bearer t"),
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-example.com%2Fscope", "a"),
        ("Impersonate-Extra-example.com%2Fscope", "b"),
    )


def test_an_identity_provider(tmp_path: Path) -> None:
    """The official client's part; here a token that has not expired."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 3600}).encode()).decode().rstrip("=")
    claims += "" if len(claims) % 4 != 1 else "A"
    provider = {"name": "oidc", "config": {"id-token": f"e30.{claims}.c2ln"}}
    access = loaded(tmp_path, {"auth-provider": provider}).access
    assert access.headers == (("Authorization", f"Bearer e30.{claims}.c2ln"),)
    assert access.renew_at is not None


def test_an_identity_provider_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(DeniedError, match='the identity provider of user "u" gave no token'):
        loaded(tmp_path, {"auth-provider": {"name": "oidc", "config": {}}})


def test_the_official_client_is_loaded_only_when_needed(tmp_path: Path) -> None:
    """It costs 0.3 s and 20 MB, which `intercept` and the node daemon would feel."""
    path = kubeconfig(tmp_path, {"token": "t"})
    code = f"import sys; from tproxy.kube.config import load; load({path!r}); sys.exit('kubernetes' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_certificates(tmp_path: Path, pem: Certificates) -> None:
    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    inline = loaded(
        tmp_path,
        {"client-certificate-data": data(pem.client), "client-key-data": data(pem.client_key)},
        {"certificate-authority-data": data(pem.authority), "tls-server-name": "api.test"},
        "https://127.0.0.1:1",
    )
    files = loaded(
        tmp_path,
        {"client-certificate": str(pem.client), "client-key": str(pem.client_key)},
        {"certificate-authority": str(pem.authority)},
        "https://127.0.0.1:1",
    )
    assert (inline.server_name, files.server_name) == ("api.test", None)
    for config in (inline, files):
        assert config.access.tls is not None
        assert config.access.tls.verify_mode is ssl.CERT_REQUIRED
        (authority,) = config.access.tls.get_ca_certs()
        assert authority["subject"] == ((("commonName", "test authority"),),)


def test_insecure_is_insecure_only_when_asked_for(tmp_path: Path) -> None:
    tls = loaded(tmp_path, {}, {"insecure-skip-tls-verify": True}, "https://a").access.tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_NONE, False)
    tls = loaded(tmp_path, {}, {"insecure-skip-tls-verify": False}, "https://a").access.tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({}, {"certificate-authority-data": "bm8gcGVt"}),
        ({}, {"certificate-authority-data": "x"}),
        ({"client-certificate-data": "bm8gcGVt", "client-key-data": "bm8gcGVt"}, {}),
        ({"client-certificate": "/no/such/file"}, {}),
    ],
)
def test_certificates_that_cannot_be_used(tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any]) -> None:
    with pytest.raises(ClusterError, match=r'(context "dev".* (cannot be used|is no base64|cannot be read))') as raised:
        loaded(tmp_path, user, cluster, "https://a")
    assert raised.value.hint


def test_a_proxy(tmp_path: Path) -> None:
    server = "https://api.example.com:6443"
    path = kubeconfig(tmp_path, {}, {"proxy-url": "socks5://p:1080"}, server)
    assert load(path, None, {"HTTPS_PROXY": "http://e:1"}).proxy == "socks5://p:1080"
    assert load(kubeconfig(tmp_path, {}, {}, server), None, {"HTTPS_PROXY": "http://e:1"}).proxy == "http://e:1"
    assert load(kubeconfig(tmp_path, {}, {}, server), None, {}).proxy is None


@pytest.mark.parametrize("server", ["api:6443", "ftp://api", "https://"])
def test_a_server_that_is_no_url(tmp_path: Path, server: str) -> None:
    with pytest.raises(ClusterError, match='of context "dev" is no http or https URL') as raised:
        loaded(tmp_path, {}, {}, server)
    assert raised.value.hint


def test_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as raised:
        load(None, None, {"HOME": str(tmp_path)})
    assert raised.value.message == "no cluster is configured"
    assert raised.value.hint.startswith("set KUBECONFIG or pass `--kubeconfig FILE`")


@pytest.fixture
def service_account(tmp_path: Path, pem: Certificates, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ca.crt").write_bytes(pem.authority.read_bytes())
    (tmp_path / "namespace").write_text("tproxy-system")
    (tmp_path / "token").write_text("first")
    monkeypatch.setattr(config_module, "SERVICE_ACCOUNT", tmp_path)
    return tmp_path


def test_inside_a_pod(service_account: Path, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    config = load(None, None, environ)
    assert (config.server, config.namespace, config.context) == ("https://[fd00::1]:443", "tproxy-system", "")
    assert config.access.headers == (("Authorization", "Bearer first"),)
    assert config.access.renew_at is not None
    (service_account / "token").write_text("second")
    assert config.renew().headers == (("Authorization", "Bearer second"),)


def test_a_kubeconfig_goes_before_the_pods_own(service_account: Path, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "t"})
    assert load(None, None, {"KUBECONFIG": path, "KUBERNETES_SERVICE_HOST": "10.96.0.1"}).context == "dev"


def test_a_pod_without_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "SERVICE_ACCOUNT", tmp_path / "none")
    with pytest.raises(ClusterError) as raised:
        load(None, None, {"HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert "automountServiceAccountToken" in raised.value.hint


def test_configurations_compare_by_what_they_say(tmp_path: Path) -> None:
    config = loaded(tmp_path, {"token": "t"})
    assert config == loaded(tmp_path, {"token": "t"})
    assert config != dataclasses.replace(config, namespace="other")
