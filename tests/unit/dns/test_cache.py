"""Answers that are kept: for how long, under which questions, and with which TTLs."""

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tproxy.dns import wire
from tproxy.dns.cache import MOST_ANSWERS, MOST_SECONDS, Cache

NAME = "web.shop.svc.cluster.local."
SOA = "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 {minimum}"


class Clock:
    """Seconds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def query(name: str = NAME, kind: str = "A", number: int = 1, **more: bool) -> bytes:
    return dns.message.make_query(name, kind, id=number, **more).to_wire()


def answer(to: bytes, ttl: int = 30, code: dns.rcode.Rcode = dns.rcode.NOERROR, soa: int | None = None) -> bytes:
    asked = dns.message.from_wire(to)
    made = dns.message.make_response(asked)
    made.set_rcode(code)
    if code == dns.rcode.NOERROR and soa is None:
        made.answer.append(dns.rrset.from_text(asked.question[0].name, ttl, "IN", "A", "10.96.0.1", "10.96.0.2"))
    if soa is not None:
        made.authority.append(dns.rrset.from_text("cluster.local.", ttl, "IN", "SOA", SOA.format(minimum=soa)))
    return made.to_wire()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> Cache:
    return Cache(clock)


def test_the_same_question_with_another_id(cache: Cache, clock: Clock) -> None:
    cache.put(query(), answer(query()))
    clock.now += 2.5
    found = dns.message.from_wire(cache.get(query(number=77)) or b"")
    assert found.id == 77
    assert {str(one) for one in found.answer[0]} == {"10.96.0.1", "10.96.0.2"}
    assert found.answer[0].ttl == 28, "two whole seconds have passed"


@pytest.mark.parametrize("other", [query("db." + NAME), query(kind="AAAA"), query(NAME.upper()), query(use_edns=True)])
def test_another_question(cache: Cache, other: bytes) -> None:
    cache.put(query(), answer(query()))
    assert cache.get(other) is None


@pytest.mark.parametrize(("ttl", "seconds"), [(1, 1.0), (3, 3.0), (5, 5.0), (3600, MOST_SECONDS)])
def test_for_how_long(cache: Cache, clock: Clock, ttl: int, seconds: float) -> None:
    cache.put(query(), answer(query(), ttl))
    clock.now += seconds - 0.01
    assert cache.get(query()) is not None
    clock.now += 0.02
    assert cache.get(query()) is None


@pytest.mark.parametrize(("ttl", "minimum", "seconds"), [(5, 2, 2.0), (2, 5, 2.0), (60, 30, MOST_SECONDS)])
@pytest.mark.parametrize("code", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR])
def test_that_there_is_nothing(
    cache: Cache, clock: Clock, ttl: int, minimum: int, seconds: float, code: dns.rcode.Rcode
) -> None:
    cache.put(query(), answer(query(), ttl, code, minimum))
    clock.now += seconds - 0.01
    assert dns.message.from_wire(cache.get(query()) or b"").rcode() == code
    clock.now += 0.02
    assert cache.get(query()) is None


@pytest.mark.parametrize(
    "what",
    [
        answer(query(), 0),
        answer(query(), 30, dns.rcode.SERVFAIL),
        answer(query(), 30, dns.rcode.REFUSED),
        answer(query(), 30, dns.rcode.NXDOMAIN),
        answer(query(), 30, dns.rcode.NXDOMAIN, 0),
        answer(query())[:2] + bytes([0x82]) + answer(query())[3:],
        answer(query())[:-1],
        answer(query()) + bytes(5000),
        b"",
    ],
    ids=["no time", "failed", "refused", "no SOA", "no time for nothing", "truncated", "cut", "long", "empty"],
)
def test_what_is_not_kept(cache: Cache, what: bytes) -> None:
    cache.put(query(), what)
    assert cache.get(query()) is None


def test_the_oldest_go_first(cache: Cache) -> None:
    asked = [query(f"n{number}.{NAME}") for number in range(MOST_ANSWERS + 1)]
    for one in asked:
        cache.put(one, answer(one))
    assert cache.get(asked[0]) is None
    assert cache.get(asked[1]) is not None
    cache.clear()
    assert cache.get(asked[1]) is None


@given(st.binary(max_size=300), st.binary(max_size=300), st.floats(0, 10))
def test_nonsense_does_no_harm(asked: bytes, said: bytes, later: float) -> None:
    clock = Clock()
    cache = Cache(clock)
    cache.put(asked, said)
    clock.now += later
    cache.get(asked)


@given(st.integers(0, 2**32 - 1), st.floats(0, 6))
def test_no_ttl_grows(ttl: int, later: float) -> None:
    clock = Clock()
    cache = Cache(clock)
    cache.put(query(), answer(query(), ttl) if ttl < 2**31 else _with_ttl(ttl))
    clock.now += later
    found = cache.get(query())
    if found is not None:
        assert all(ttl - later - 1 <= each <= ttl for _, each in wire.addresses(found))


def _with_ttl(ttl: int) -> bytes:
    made = bytearray(answer(query(), 1))
    for record in wire.records(bytes(made)):
        made[record.start - 6 : record.start - 2] = ttl.to_bytes(4, "big")
    return bytes(made)
