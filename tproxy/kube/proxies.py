"""The proxy on the way to the API server: the kubeconfig's, or the environment's by the rules of Go, and so kubectl."""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from tproxy.errors import ClusterError

HTTP_SCHEMES = ("http", "https")
SOCKS_SCHEMES = ("socks5", "socks5h")
"""Names are resolved by the proxy with both, as Go does it."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


def choose(configured: str, server: str, environ: Mapping[str, str]) -> str | None:
    """The URL of the proxy to go through to `server`: `configured` (`proxy-url`), else HTTPS_PROXY (HTTP_PROXY for an
    http server) or ALL_PROXY, unless NO_PROXY exempts the server or it is on this machine. None: no proxy.

    Raises `ClusterError` for what is no URL of a proxy that can be used.
    """
    proxy = configured or _of_environment(urlsplit(server), environ)
    if not proxy:
        return None
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in HTTP_SCHEMES + SOCKS_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        shown = re.sub(r"[^/]*@", "", proxy)[:64]  # without a password
        raise ClusterError(
            f"the proxy {shown} cannot be used: only HTTP and SOCKS5 proxies can",
            hint="set `proxy-url` in the kubeconfig, or HTTPS_PROXY, to an http://, https:// or socks5:// URL",
        )
    return proxy


def is_socks(proxy: str | None) -> bool:
    """Whether a proxy chosen by `choose` speaks SOCKS."""
    return proxy is not None and urlsplit(proxy).scheme in SOCKS_SCHEMES


def _of_environment(server: SplitResult, environ: Mapping[str, str]) -> str:
    host = server.hostname or ""
    port = server.port or _DEFAULT_PORTS.get(server.scheme, 0)
    if _is_loopback(host) or _exempt(host, port, _variable(environ, "no_proxy")):
        return ""
    proxy = _variable(environ, f"{server.scheme}_proxy") or _variable(environ, "all_proxy")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.upper()) or environ.get(name) or ""


def _exempt(host: str, port: int, listed: str) -> bool:
    """Whether NO_PROXY names the server: `*`, an address or a network, or a domain, for which `example.com` means its
    subdomains too, `.example.com` and `*.example.com` only them. With a port, that port only.
    """
    for entry in re.split(r"[\s,]+", listed.strip().lower()):
        name, its_port = _with_port(entry)
        if name == "*":
            return True
        if not name or (its_port is not None and its_port != port):
            continue
        if (address := _address(host)) is not None:
            network = _network(name)
            if network is not None and address in network:
                return True
        elif host == name or host.endswith(f".{name.removeprefix('*').removeprefix('.')}"):
            return True
    return False


def _with_port(entry: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(?:\[(?P<six>[^\]]+)\]|(?P<name>[^:]*)):(?P<port>\d+)", entry)
    if found is None:
        return entry.strip("[]"), None
    return found["six"] or found["name"], int(found["port"])


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback
