"""Who is asked for a name."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.dns.choice import Authority, Choice, address_of, inner_search
from tproxy.dns.wire import PTR, SRV, A, Question
from tproxy.model.resolv_conf import ResolvConf

PODS = ResolvConf(
    nameservers=("10.96.0.10",),
    search=(
        "shop.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
        "eu-west-1.compute.internal",
        "corp.example",
    ),
    ndots=5,
)
CHOICE = Choice(PODS, ("corp.example", "home.arpa"), lambda address: address.startswith("10.96."))

names = st.lists(st.from_regex(r"[a-z0-9_-]{1,10}", fullmatch=True), max_size=4).map(".".join)


def asked(name: str, kind: int = A) -> Authority:
    return CHOICE.of(Question(name, kind, 1, 0))


@pytest.mark.parametrize(
    ("name", "authority"),
    [
        ("web.shop.svc.cluster.local", Authority.CLUSTER),
        ("web-0.web.shop.svc.cluster.local", Authority.CLUSTER),
        ("cluster.local", Authority.CLUSTER),
        ("ip-10-0-0-1.eu-west-1.compute.internal", Authority.CLUSTER),
        ("git.corp.example", Authority.LAPTOP),  # the laptop searches it as well
        ("example.com", Authority.LAPTOP),
        ("notcluster.local", Authority.LAPTOP),
        ("printer.local", Authority.LAPTOP),
        ("web", Authority.LAPTOP),
        ("", Authority.LAPTOP),
        ("wpad.shop.svc.cluster.local", Authority.NOBODY),
        ("wpad.home.arpa", Authority.LAPTOP),
    ],
)
def test_names(name: str, authority: Authority) -> None:
    assert asked(name) is authority


@given(names)
def test_everything_in_the_clusters_domain_is_the_clusters(name: str) -> None:
    expected = Authority.NOBODY if name.startswith("wpad.") or name == "wpad" else Authority.CLUSTER
    assert asked(f"{name}.svc.cluster.local" if name else "svc.cluster.local", SRV) is expected


def test_another_domain_of_the_cluster() -> None:
    pods = ResolvConf(search=("shop.svc.k8s.example", "svc.k8s.example", "k8s.example"))
    choice = Choice(pods, (), lambda _: False)
    assert choice.of(Question("web.shop.svc.k8s.example", A, 1, 0)) is Authority.CLUSTER
    assert choice.of(Question("web.shop.svc.cluster.local", A, 1, 0)) is Authority.LAPTOP


def test_reverse_names_follow_their_address() -> None:
    assert asked("10.0.96.10.in-addr.arpa", PTR) is Authority.CLUSTER
    assert asked("10.0.96.11.in-addr.arpa", PTR) is Authority.LAPTOP
    assert asked("10.0.96.10.in-addr.arpa", A) is Authority.LAPTOP


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_addresses_of_reverse_names(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert address_of(address.reverse_pointer) == str(address)


@given(st.text(max_size=80))
def test_other_names_are_no_addresses(text: str) -> None:
    address_of(text)
    address_of(f"{text}.in-addr.arpa")
    address_of(f"{text}.ip6.arpa")


@given(st.lists(names.filter(bool), max_size=12), st.lists(names.filter(bool), max_size=12))
def test_the_search_list_fits_every_resolver(pods: list[str], laptop: list[str]) -> None:
    found = inner_search(pods, laptop)
    assert len(found) <= 6
    assert len(" ".join(found)) < 256
    assert list(found) == list(dict.fromkeys((*pods, *laptop)))[: len(found)]
