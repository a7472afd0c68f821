"""Credential plugins of a kubeconfig (`exec`): what they are told, how they are run, what they answer.

The official client's way is not taken: it ignores `interactiveMode`, tells plugins another cluster than kubectl does,
loses what a plugin says to a terminal when it fails, and costs 0.3 s and 20 MB to import.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tproxy.errors import DeniedError
from tproxy.kube.kubeconfig import Context

PLUGIN_SECONDS = 120.0
"""How long a plugin may take: a person may have to confirm something on a telephone."""

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")

_EXTENSION = "client.authentication.k8s.io/exec"
_CLUSTER_KEYS = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression")
_TEXT_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a plugin gave. `expires`: wall-clock seconds, None if it did not say."""

    token: str = field(default="", repr=False)
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    expires: float | None = None


def run(context: Context, authority: bytes) -> Credentials:
    """Run the plugin of the context's user; `authority` is the cluster's, as PEM. Blocks, for `PLUGIN_SECONDS` at most.

    Raises `DeniedError` if it cannot be run, fails, or gives nothing that can be used.
    """
    entry = context.user["exec"]
    words, environment, version = _read(entry, context)
    interactive = _interactive(entry, words[0], context)
    spec: dict[str, Any] = {"interactive": interactive}
    if entry.get("provideClusterInfo"):
        spec["cluster"] = _cluster(context, authority)
    told = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **environment, "KUBERNETES_EXEC_INFO": json.dumps(told)},
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if interactive else subprocess.PIPE,
            timeout=PLUGIN_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise DeniedError(
            f'the credential plugin `{words[0]}` of user "{context.user_name}" is not installed',
            hint=str(entry.get("installHint") or "install it, or choose another context with `--context`").strip(),
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _failed(words[0], context, f"it did not end within {PLUGIN_SECONDS:.0f} s", error.stderr) from error
    except (OSError, ValueError) as error:
        raise _failed(words[0], context, getattr(error, "strerror", None) or str(error)) from error
    if done.returncode != 0:
        raise _failed(words[0], context, f"exit status {done.returncode}", done.stderr)
    return _answer(done.stdout, version, words[0], context)


def _read(entry: object, context: Context) -> tuple[list[str], dict[str, str], str]:
    """Its command line, its own environment, the version of what it is to be told."""
    entry = entry if isinstance(entry, Mapping) else {}
    command, version = entry.get("command"), entry.get("apiVersion")
    if not isinstance(command, str) or not command:
        raise _failed("", context, "its entry in the kubeconfig names no command")
    if version not in VERSIONS:
        raise _failed(command, context, f"its apiVersion is {version!r}, and {' or '.join(VERSIONS)} is understood")
    try:
        words = [command, *(str(word) for word in entry.get("args") or ())]
        environment = {str(item["name"]): str(item["value"]) for item in entry.get("env") or ()}
    except (TypeError, KeyError) as error:
        raise _failed(command, context, "its args or env in the kubeconfig are no lists of that") from error
    return words, environment, str(version)


def _interactive(entry: Mapping[str, Any], command: str, context: Context) -> bool:
    """Whether it may ask the person at the terminal."""
    mode = str(entry.get("interactiveMode") or "IfAvailable")
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if mode == "Always" and not terminal:
        # The daemon has none: it renews credentials also when nobody is there.
        raise DeniedError(
            f'the credential plugin `{command}` of user "{context.user_name}" always asks on a terminal'
            " (interactiveMode: Always), and there is none",
            hint="set its interactiveMode to IfAvailable in the kubeconfig if it keeps a login of"
            f" `kubectl --context {context.name} get pods`",
        )
    return mode != "Never" and terminal


def _cluster(context: Context, authority: bytes) -> dict[str, Any]:
    """The cluster, as `provideClusterInfo` asks for it."""
    cluster = {key: context.cluster[key] for key in _CLUSTER_KEYS if context.cluster.get(key)}
    if authority:
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    for extension in context.cluster.get("extensions") or ():
        if isinstance(extension, Mapping) and extension.get("name") == _EXTENSION:
            cluster["config"] = extension.get("extension")
    return cluster


def _answer(said: bytes, version: str, command: str, context: Context) -> Credentials:
    try:
        answer = json.loads(said)
        kind, spoken, status = answer["kind"], answer["apiVersion"], answer.get("status") or {}
        token, certificate, key = (status.get(k) for k in ("token", "clientCertificateData", "clientKeyData"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _failed(command, context, "what it printed is no ExecCredential") from error
    if kind != "ExecCredential" or spoken != version:
        raise _failed(command, context, f"it printed {kind} of {spoken}, where ExecCredential of {version} was due")
    if not token and not (certificate and key):
        raise DeniedError(
            f'the credential plugin `{command}` of user "{context.user_name}" gave neither a token nor a client'
            " certificate",
            hint=_see(context),
        )
    return Credentials(
        str(token or ""),
        str(certificate or "").encode(),
        str(key or "").encode(),
        _time(status.get("expirationTimestamp")),
    )


def _time(stamp: object) -> float | None:
    try:
        return datetime.fromisoformat(str(stamp)).timestamp() if stamp else None
    except ValueError:
        return None


def _failed(command: str, context: Context, why: str, said: object = None) -> DeniedError:
    """`said`: its standard error, of which the end is the reason more often than the beginning."""
    text = " ".join(said.decode(errors="replace").split())[-_TEXT_LIMIT:] if isinstance(said, bytes) else ""
    name = f" `{command}`" if command else ""
    return DeniedError(
        f'the credential plugin{name} of user "{context.user_name}" failed: {why}{f": {text}" if text else ""}',
        hint=_see(context),
    )


def _see(context: Context) -> str:
    return f"see what `kubectl --context {context.name} get pods` says"
