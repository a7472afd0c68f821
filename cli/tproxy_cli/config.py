"""The configuration file: defaults for flags, under the flags' own names.

    namespace: shop
    on-disconnect: fail

A flag and its environment variable (`TPROXY_NAMESPACE`) go before it.
"""

from collections.abc import Mapping
from typing import Any

from tproxy.errors import InvalidError
from tproxy_cli import paths

DEFAULTS: Mapping[str, Any] = {
    "all-namespaces": False,
    "color": "auto",
    "context": None,
    "drain": 30,
    "existing": "idle",
    "kubeconfig": None,
    "namespace": None,
    "on-disconnect": "fallback",
    "probes": "app",
    "progress": "auto",
    "proxy-protocol": None,
    "timeout": 60,
    "transport": None,
    "verbose": False,
}
"""What can be set, and what holds if it is not. Flags that choose what one command does cannot be set."""


def load() -> dict[str, Any]:
    """The file's values by parameter name (`on_disconnect`), empty without a file.

    Raises InvalidError naming the file if it cannot be read or has a key that is not in `DEFAULTS`.
    """
    path = paths.config_path()
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
        raise InvalidError(f"cannot read the configuration file {path}: {why}", f"`ls -l {path}`") from error
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise InvalidError(
            f"the configuration file {path} is not YAML{where}", "write lines of the form `namespace: shop`"
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidError(
            f"the configuration file {path} holds no keys and values", "write lines of the form `namespace: shop`"
        )
    for key, value in values.items():
        if key not in DEFAULTS:
            raise InvalidError(f"{path} sets {key!r}, which is not a setting", _hint(str(key)))
        if isinstance(value, dict | list) or value is None:
            raise InvalidError(f"{path}: the value of {key} is not a single word or number", f"write `{key}: VALUE`")
    return {key.replace("-", "_"): value for key, value in values.items()}


def _hint(key: str) -> str:
    import difflib

    close = difflib.get_close_matches(key, DEFAULTS, n=1)
    return f"did you mean `{close[0]}`?" if close else "settings are " + ", ".join(f"`{key}`" for key in DEFAULTS)
