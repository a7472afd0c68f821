"""How connections to the API server are made: kept alive, and by SOCKS where a proxy wants that."""

import socket
from typing import Any

import aiohttp

from tproxy.kube.proxies import is_socks

_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPALIVE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
"""Option and seconds, or tries. macOS calls the first one TCP_KEEPALIVE."""


def connector(proxy: str | None) -> aiohttp.TCPConnector:
    """A pool of connections without a limit: watches and port-forwards hold them for as long as they live, and their
    owners bound them. HTTP proxies are left to the requests, which name them.
    """
    if proxy is None or not is_socks(proxy):
        return aiohttp.TCPConnector(limit=0, socket_factory=_socket)
    from tproxy.kube.socks import SocksConnector  # 40 ms that only few pay

    return SocksConnector(proxy, limit=0)


def keep_alive(sock: socket.socket) -> None:
    """Find out within a minute when the other end has vanished: a watch may be silent for long."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _socket(info: Any) -> socket.socket:
    family, kind, proto, _, _ = info
    sock = socket.socket(family, kind, proto)
    keep_alive(sock)
    return sock
