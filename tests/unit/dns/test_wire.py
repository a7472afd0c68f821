"""DNS messages, against dnspython and against nonsense."""

import contextlib

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.dns import wire

LABELS = st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=6).map(".".join)


@given(NAMES, st.sampled_from(["A", "AAAA", "SRV", "PTR", "HTTPS"]), st.integers(0, 65535), st.booleans())
def test_questions_are_read_as_they_are_meant(name: str, kind: str, number: int, edns: bool) -> None:
    query = dns.message.make_query(f"{name}.", kind, use_edns=0 if edns else -1, payload=1400, id=number).to_wire()
    found = wire.question(query)
    assert (found.name, found.kind, found.cls) == (name.lower(), dns.rdatatype.from_text(kind), 1)
    assert wire.is_query(query)
    assert wire.udp_limit(query) == (1400 if edns else 512)
    made = dns.message.from_wire(wire.make_query(name, found.kind, number, 1400 if edns else 0))
    assert made.payload == (1400 if edns else 0)
    assert (made.id, made.question) == (number, dns.message.from_wire(query).question)
    answer = dns.message.from_wire(wire.answer_without_records(query, wire.NXDOMAIN))
    assert (answer.id, answer.rcode(), answer.question) == (number, dns.rcode.NXDOMAIN, made.question)
    assert answer.flags & dns.flags.QR


@given(NAMES, st.lists(st.ip_addresses(v=4), max_size=40), st.lists(st.ip_addresses(v=6), max_size=40))
def test_addresses_are_found_behind_aliases(name: str, four: list[object], six: list[object]) -> None:
    query = dns.message.make_query(f"{name}.", "A")
    answer = dns.message.make_response(query)
    answer.answer.append(dns.rrset.from_text(f"{name}.", 5, "IN", "CNAME", "alias.example."))
    for kind, addresses in (("A", four), ("AAAA", six)):
        if addresses:
            texts = [str(one) for one in dict.fromkeys(addresses)]
            answer.answer.append(dns.rrset.from_text_list("alias.example.", 7, "IN", kind, texts))
    packed = answer.to_wire()
    assert set(wire.addresses(packed)) == {(str(one), 7) for one in (*four, *six)}
    short = wire.for_udp(query.to_wire(), packed)
    assert wire.truncated(short) == (len(packed) > 512)
    assert len(short) <= 512
    assert dns.message.from_wire(short).question == answer.question


@given(st.binary(max_size=600))
def test_nonsense_is_refused_or_read_but_never_worse(data: bytes) -> None:
    for read in (wire.question, wire.addresses, wire.udp_limit, wire.is_query):
        with contextlib.suppress(wire.MalformedError):
            read(data)


@given(st.binary(min_size=1, max_size=200), st.integers(0, 300))
def test_a_broken_answer_is_no_answer(noise: bytes, at: int) -> None:
    query = dns.message.make_query("web.shop.svc.cluster.local.", "A")
    answer = dns.message.make_response(query)
    answer.answer.append(dns.rrset.from_text("web.shop.svc.cluster.local.", 5, "IN", "A", "10.96.0.1"))
    packed = answer.to_wire()
    broken = packed[:at] + noise + packed[at + len(noise) :]
    with contextlib.suppress(wire.MalformedError):
        wire.addresses(broken)


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["x" * 60] * 5)])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(wire.MalformedError):
        wire.make_query(name, wire.A)


def test_a_name_that_points_to_itself_ends() -> None:
    looping = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\xc0\x0c" + b"\0\1\0\1"
    with pytest.raises(wire.MalformedError):
        wire.question(looping)
