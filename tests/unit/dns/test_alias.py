"""Short names of Services on a laptop."""

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from tproxy.dns import wire
from tproxy.dns.alias import expanded, renamed
from tproxy.model.resolv_conf import ResolvConf

CLUSTER = ResolvConf(search=("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"), ndots=5)
SERVICES = {("shop", "web"), ("bank", "ledger"), ("shop", "wpad")}


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("web", "web.shop.svc.cluster.local"),
        ("web.shop", "web.shop.svc.cluster.local"),
        ("web.shop.svc", "web.shop.svc.cluster.local"),
        ("ledger.bank", "ledger.bank.svc.cluster.local"),
        ("web-0.web", "web-0.web.shop.svc.cluster.local"),
        ("ledger-0.ledger.bank.svc", "ledger-0.ledger.bank.svc.cluster.local"),
        ("_http._tcp.web", "_http._tcp.web.shop.svc.cluster.local"),
        ("ledger", ""),
        ("web.bank", ""),
        ("web.example", ""),
        ("wpad", ""),
        ("www.example.com", ""),
        ("web.shop.svc.cluster.local", ""),
        ("", ""),
    ],
)
def test_what_a_short_name_stands_for(name: str, full: str) -> None:
    assert expanded(name, CLUSTER, lambda namespace, service: (namespace, service) in SERVICES) == full


def test_an_answer_under_the_name_that_was_asked_for() -> None:
    long = dns.message.make_response(dns.message.make_query("web.shop.svc.cluster.local.", "A"))
    long.answer.append(dns.rrset.from_text("web.shop.svc.cluster.local.", 5, "IN", "CNAME", "other.example."))
    long.answer.append(dns.rrset.from_text_list("other.example.", 5, "IN", "A", ["10.96.0.1", "10.96.0.2"]))
    long.additional.append(dns.rrset.from_text("x.example.", 5, "IN", "A", "10.0.0.9"))
    query = dns.message.make_query("Web.", "A", id=77).to_wire()
    answer = dns.message.from_wire(renamed(query, long.to_wire()))
    assert (answer.id, answer.question[0].name.to_text()) == (77, "Web.")
    assert {str(one) for one in answer.answer[0]} == {"10.96.0.1", "10.96.0.2"}
    assert answer.answer[0].name.to_text() == "Web."
    assert not answer.additional


def test_srv_records_keep_their_targets() -> None:
    name = "_http._tcp.web.shop.svc.cluster.local."
    long = dns.message.make_response(dns.message.make_query(name, "SRV"))
    target = "0 100 80 web.shop.svc.cluster.local."
    long.answer.append(dns.rrset.from_text(name, 5, "IN", "SRV", target))
    answer = dns.message.from_wire(renamed(wire.make_query("_http._tcp.web", wire.SRV), long.to_wire()))
    assert str(answer.answer[0][0]) == target


def test_nothing_stays_nothing() -> None:
    for rcode in (wire.NOERROR, wire.NXDOMAIN, wire.SERVFAIL):
        query = wire.make_query("web", wire.AAAA, 3)
        long = wire.answer_without_records(wire.make_query("web.shop.svc.cluster.local", wire.AAAA), rcode)
        answer = dns.message.from_wire(renamed(query, long))
        assert (answer.id, answer.rcode(), answer.answer) == (3, rcode, [])
