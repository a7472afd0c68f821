"""Which proxy is chosen. What kubectl would do is what Go's `httpproxy` does."""

import pytest

from tproxy.errors import ClusterError
from tproxy.kube.proxies import choose, is_socks

SERVER = "https://api.example.com:6443"
PROXY = {"HTTPS_PROXY": "http://e:1"}


@pytest.mark.parametrize(
    ("configured", "environ", "proxy"),
    [
        ("", {}, None),
        ("http://p:3128", {}, "http://p:3128"),
        ("https://p:3128", {}, "https://p:3128"),
        ("socks5://p:1080", {}, "socks5://p:1080"),
        ("socks5h://p", {}, "socks5h://p"),
        ("http://p:3128", {"NO_PROXY": "*"}, "http://p:3128"),
        ("http://p:3128", PROXY, "http://p:3128"),
        ("", {"HTTPS_PROXY": "http://e:1"}, "http://e:1"),
        ("", {"https_proxy": "http://e:1"}, "http://e:1"),
        ("", {"HTTPS_PROXY": "http://e:1", "https_proxy": "http://e:2"}, "http://e:1"),
        ("", {"HTTPS_PROXY": "", "https_proxy": "http://e:2"}, "http://e:2"),
        ("", {"HTTPS_PROXY": "e:1"}, "http://e:1"),
        ("", {"HTTPS_PROXY": "socks5://e:1"}, "socks5://e:1"),
        ("", {"ALL_PROXY": "ada:pw@e"}, "http://ada:pw@e"),
        ("", {"HTTP_PROXY": "http://e:1"}, None),
    ],
)
def test_where_a_proxy_comes_from(configured: str, environ: dict[str, str], proxy: str | None) -> None:
    assert choose(configured, SERVER, environ) == proxy


@pytest.mark.parametrize(
    ("server", "listed", "exempt"),
    [
        (SERVER, "*", True),
        (SERVER, "other,.example.com", True),
        (SERVER, "other, example.com", True),
        (SERVER, "*.example.com", True),
        (SERVER, "API.Example.com", True),
        (SERVER, "example.com:6443", True),
        (SERVER, "example.com:443", False),
        (SERVER, ".api.example.com", False),
        (SERVER, "xample.com", False),
        (SERVER, "example.org", False),
        (SERVER, ",", False),
        ("https://example.com", "example.com:443", True),
        ("https://10.1.2.3:6443", "10.0.0.0/8", True),
        ("https://10.1.2.3:6443", "10.1.2.3", True),
        ("https://10.1.2.3:6443", "10.1.2.3:6443", True),
        ("https://10.1.2.3:6443", "10.1.2.3:443", False),
        ("https://10.1.2.3:6443", "192.168.0.0/16, .3", False),
        ("https://10.1.2.3:6443", "fd00::/8", False),
        ("https://[fd00::1]:6443", "fd00::/8", True),
        ("https://[fd00::1]:6443", "fd00::1", True),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", True),
        ("https://[fd00::1]:6443", "10.0.0.0/8", False),
        ("https://[fd00::1]:6443", "10.0.0.0/99, fd00::/8", True),
    ],
)
def test_no_proxy(server: str, listed: str, exempt: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert choose("", server, PROXY | {name: listed}) == (None if exempt else "http://e:1")


@pytest.mark.parametrize("server", ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443"])
def test_no_proxy_for_this_machine(server: str) -> None:
    assert choose("", server, PROXY) is None
    assert choose("http://p:1", server, {}) == "http://p:1"


def test_http_servers_have_a_variable_of_their_own() -> None:
    assert choose("", "http://api.example.com", PROXY | {"HTTP_PROXY": "http://e:2"}) == "http://e:2"


def test_which_speak_socks() -> None:
    socks = [is_socks(proxy) for proxy in ("socks5://p", "socks5h://p", "http://p", "https://p", None)]
    assert socks == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("socks4://user:secret@p:1080", "socks4://p:1080"),
        ("p:3128", "p:3128"),
        ("user:secret@p", "p"),
        ("http://user:secret@", "http://"),
        ("http://user:secret@p:port", "http://p:port"),
        ("http://user:secret@[::1", "http://[::1"),
    ],
)
def test_a_proxy_we_cannot_use(url: str, shown: str) -> None:
    with pytest.raises(ClusterError) as raised:
        choose(url, SERVER, {})
    assert raised.value.message == f"the proxy {shown} cannot be used: only HTTP and SOCKS5 proxies can"
    assert "socks5://" in raised.value.hint
