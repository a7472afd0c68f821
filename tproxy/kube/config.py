"""Which cluster to talk to, and how: from a kubeconfig, or from inside a pod."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tproxy.errors import ClusterError
from tproxy.kube import credentials, proxies
from tproxy.kube.credentials import Access
from tproxy.kube.kubeconfig import BROKEN_HINT, NO_CLUSTER_HINT, find, read

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A cluster and the way in.

    `server` is the API's URL without a slash at the end, `server_name` the name its certificate must have (None: the
    one in the URL), `proxy` the URL of an HTTP or SOCKS5 proxy. `access` are the credentials got by `load`; `renew`
    gets fresh ones, reading the files again, and blocks.
    """

    server: str
    namespace: str
    context: str
    access: Access
    renew: Callable[[], Access] = field(repr=False, compare=False)
    server_name: str | None = None
    proxy: str | None = None


def load(
    kubeconfig: str | None = None, context: str | None = None, environ: Mapping[str, str] | None = None
) -> ClusterConfig:
    """Read the configuration as kubectl would: `kubeconfig` (one file or several, as in $KUBECONFIG), else
    $KUBECONFIG, else ~/.kube/config, else, in a pod, the pod's service account.

    Blocks: reads files and may run the user's credential plugin. Raises `ClusterError` naming what is missing, and
    `DeniedError` if the plugin gave no credentials.
    """
    environ = os.environ if environ is None else environ
    paths = find(kubeconfig, environ)
    if not paths:
        if "KUBERNETES_SERVICE_HOST" in environ and context is None:
            return _in_cluster(environ)
        raise ClusterError("no cluster is configured", hint=NO_CLUSTER_HINT)
    config = read(paths)
    chosen = config.context(context)
    server = str(chosen.cluster["server"]).rstrip("/")
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f'the server "{server}" of context "{chosen.name}" is no http or https URL', BROKEN_HINT)

    def renew() -> Access:
        again = read(paths)
        return credentials.get(again, again.context(chosen.name))

    return ClusterConfig(
        server=server,
        namespace=chosen.namespace,
        context=chosen.name,
        access=credentials.get(config, chosen),
        renew=renew,
        server_name=str(chosen.cluster["tls-server-name"]) if chosen.cluster.get("tls-server-name") else None,
        proxy=proxies.choose(str(chosen.cluster.get("proxy-url") or ""), server, environ),
    )


def _in_cluster(environ: Mapping[str, str]) -> ClusterConfig:
    """The API as pods reach it. Read by hand: the official client would add 20 MB to the node daemon."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        ca = (SERVICE_ACCOUNT / "ca.crt").read_bytes()
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except OSError as error:
        raise ClusterError(
            f"the pod's service account cannot be read: {error.filename}: {error.strerror}",
            hint="the pod needs `automountServiceAccountToken: true`",
        ) from error
    tls = credentials.tls_context(ca, True, b"", b"", "the service account")

    def renew() -> Access:
        try:
            token = (SERVICE_ACCOUNT / "token").read_text().strip()
        except OSError as error:
            raise ClusterError(f"the service account's token cannot be read: {error.strerror}") from error
        return Access((("Authorization", f"Bearer {token}"),), tls, time.time() + credentials.FILE_SECONDS)

    name = f"[{host}]" if ":" in host else host
    return ClusterConfig(server=f"https://{name}:{port}", namespace=namespace, context="", access=renew(), renew=renew)
