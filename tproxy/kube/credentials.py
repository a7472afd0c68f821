"""What a request must carry to be let in: TLS identity, token, impersonation; and for how long that is good.

Static credentials are read here, plugins (`exec`) have a room of their own, identity providers (`auth-provider`) are
left to the official client, which is imported only then.
"""

import base64
import binascii
import ssl
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

from tproxy.errors import ClusterError, DeniedError
from tproxy.kube import plugin
from tproxy.kube.kubeconfig import BROKEN_HINT, Context, Kubeconfig

FILE_SECONDS = 60.0
"""How long a token from a file is good for before it is read again, as in client-go."""

_EXPIRY_MARGIN = 60.0
_SHORTEST = 5.0
_TEXT_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Access:
    """Credentials as of now. `renew_at`: wall-clock seconds from which on they should be got again, None for never."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: ssl.SSLContext | None = None
    renew_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Secret:
    authorization: str = ""
    certificate: bytes = b""
    key: bytes = b""
    renew_at: float | None = None


def get(config: Kubeconfig, context: Context) -> Access:
    """The credentials of `context`. Blocks: reads files and runs plugins.

    Raises `ClusterError` for files that cannot be used, `DeniedError` if a plugin or identity provider gave nothing.
    """
    if "exec" in context.user:
        secret = _from_plugin(context)
    elif "auth-provider" in context.user:
        secret = _from_identity_provider(config, context)
    else:
        secret = _static(context)
    own = (("Authorization", secret.authorization),) if secret.authorization else ()
    return Access((*own, *_impersonation(context.user)), _tls(context, secret), secret.renew_at)


def _static(context: Context) -> _Secret:
    user = context.user
    certificate = _data(user, "client-certificate", context)
    key = _data(user, "client-key", context)
    if user.get("tokenFile"):  # before `token`, as with kubectl
        token = _read(str(user["tokenFile"]), context).decode(errors="replace").strip()
        return _Secret(f"Bearer {token}", certificate, key, time.time() + FILE_SECONDS)
    if user.get("token"):
        return _Secret(f"Bearer {user['token']}", certificate, key)
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}".encode()
        return _Secret(f"Basic {base64.b64encode(pair).decode()}", certificate, key)
    return _Secret("", certificate, key)


def _from_plugin(context: Context) -> _Secret:
    given = plugin.run(context, _data(context.cluster, "certificate-authority", context))
    renew_at = None if given.expires is None else max(given.expires - _EXPIRY_MARGIN, time.time() + _SHORTEST)
    return _Secret(f"Bearer {given.token}" if given.token else "", given.certificate, given.key, renew_at)


def _from_identity_provider(config: Kubeconfig, context: Context) -> _Secret:
    """OIDC and the like: the official client refreshes the token and saves the new one, as kubectl does."""
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_kube_config
    from kubernetes.config.kube_config import ENV_KUBECONFIG_PATH_SEPARATOR

    configuration = Configuration()
    try:
        files = ENV_KUBECONFIG_PATH_SEPARATOR.join(config.paths)
        load_kube_config(files, context=context.name, client_configuration=configuration)
        token = cast("str | None", configuration.get_api_key_with_prefix("BearerToken"))
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise DeniedError(
            f'the identity provider of user "{context.user_name}" gave no token: {str(error)[:_TEXT_LIMIT]}',
            hint=f"see what `kubectl --context {context.name} get pods` says",
        ) from error
    return _Secret(token or "", renew_at=time.time() + FILE_SECONDS)


def _impersonation(user: Mapping[str, Any]) -> list[tuple[str, str]]:
    headers = []
    if user.get("as"):
        headers.append(("Impersonate-User", str(user["as"])))
    if user.get("as-uid"):
        headers.append(("Impersonate-Uid", str(user["as-uid"])))
    headers += [("Impersonate-Group", str(group)) for group in user.get("as-groups") or ()]
    for key, values in (user.get("as-user-extra") or {}).items():
        headers += [(f"Impersonate-Extra-{quote(str(key).lower(), safe='')}", str(value)) for value in values or ()]
    return headers


def _tls(context: Context, secret: _Secret) -> ssl.SSLContext | None:
    if not str(context.cluster["server"]).startswith("https:"):
        return None
    ca = _data(context.cluster, "certificate-authority", context)
    verify = not context.cluster.get("insecure-skip-tls-verify")
    return tls_context(ca, verify, secret.certificate, secret.key, f'context "{context.name}"')


def tls_context(ca: bytes, verify: bool, certificate: bytes, key: bytes, owner: str) -> ssl.SSLContext:
    """A client context trusting `ca` (the system's authorities if empty). Raises `ClusterError` on bad PEM."""
    try:
        tls = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
        if not verify:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        if certificate:
            # OpenSSL reads a certificate chain from a file only.
            with tempfile.NamedTemporaryFile(prefix="tproxy-") as file:
                file.write(certificate + b"\n" + key)
                file.flush()
                tls.load_cert_chain(file.name, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ClusterError(
            f"the certificates of {owner} cannot be used: {str(error)[:_TEXT_LIMIT]}",
            hint="`kubectl config view` shows where they come from",
        ) from error
    return tls


def _data(entry: Mapping[str, Any], key: str, context: Context) -> bytes:
    """PEM from `key`-data (base64) or from the file named by `key`; empty if there is neither."""
    if inline := entry.get(f"{key}-data"):
        try:
            return base64.b64decode(str(inline), validate=False)
        except binascii.Error as error:
            raise ClusterError(f'{key}-data of context "{context.name}" is no base64', BROKEN_HINT) from error
    return _read(str(entry[key]), context) if entry.get(key) else b""


def _read(path: str, context: Context) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise ClusterError(
            f'{path}, needed by context "{context.name}", cannot be read: {error.strerror}', BROKEN_HINT
        ) from error
