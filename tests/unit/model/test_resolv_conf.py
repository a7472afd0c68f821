"""resolv.conf as resolvers read it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.model.resolv_conf import MAX_NAMESERVERS, MAX_SEARCH, ResolvConf, candidates, parse_resolv_conf

KUBELET = """search shop.svc.cluster.local svc.cluster.local cluster.local corp.example
nameserver 10.96.0.10
options ndots:5
"""


def test_what_the_kubelet_writes() -> None:
    found = parse_resolv_conf(KUBELET)
    assert found.nameservers == ("10.96.0.10",)
    assert found.search == ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example")
    assert (found.ndots, found.cluster_domain) == (5, "cluster.local")
    assert found.render() == KUBELET
    assert found.render(("127.0.0.1",)).splitlines()[1] == "nameserver 127.0.0.1"


def test_what_people_write() -> None:
    found = parse_resolv_conf(
        "# mine\n; and yours\ndomain old.example\nsearch a.example. B.example\nnameserver fe80::1%eth0\n"
        "nameserver nonsense\nnameserver ::ffff:10.0.0.1 comment\noptions timeout:99 attempts:0 ndots:x rotate use-vc\n"
    )
    assert found.search == ("a.example", "b.example")
    assert found.nameservers == ("fe80::1%eth0", "::ffff:a00:1")
    assert (found.timeout, found.attempts, found.ndots) == (30, 1, 1)
    assert found.rotate
    assert found.use_tcp


@pytest.mark.parametrize(
    ("name", "tried"),
    [
        ("web", ["web.shop.svc.x", "web.svc.x", "web"]),
        ("web.", ["web"]),
        ("web.shop", ["web.shop", "web.shop.shop.svc.x", "web.shop.svc.x"]),
    ],
)
def test_names_are_tried_as_resolvers_do(name: str, tried: list[str]) -> None:
    assert candidates(name, ResolvConf(search=("shop.svc.x", "svc.x"))) == tried


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=2000))
def test_any_text_means_something_bounded(text: str) -> None:
    found = parse_resolv_conf(text)
    assert len(found.nameservers) <= MAX_NAMESERVERS
    assert len(found.search) <= MAX_SEARCH
    assert parse_resolv_conf(found.render()) == found
