"""Tokens and expiry."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.objects import session
from tproxy.model.session import ExpiryTracker, hash_token, token_matches

TOKEN = bytes(range(32))
START = datetime(2026, 1, 1, tzinfo=UTC)


def test_only_the_sessions_token_matches() -> None:
    ours = session(token_hash=hash_token(TOKEN))
    assert token_matches(ours, TOKEN)
    assert not token_matches(ours, bytes(32))
    assert not token_matches(ours, b"")
    # The hash of a shorter text is no way in, even if somebody puts that hash into the object.
    assert not token_matches(session(token_hash=hash_token(b"short")), b"short")


@given(st.binary(max_size=64))
def test_no_other_token_matches(token: bytes) -> None:
    assert token_matches(session(token_hash=hash_token(TOKEN)), token) == (token == TOKEN)


def test_a_session_expires_when_it_was_not_renewed_for_its_ttl() -> None:
    tracker = ExpiryTracker()
    tracker.observe(session(), now=100.0)
    tracker.observe(session(), now=3000.0)  # seen again, unchanged: no renewal
    assert tracker.expired(now=3699.9) == []
    assert tracker.expired(now=3700.0) == [session()]


def test_a_renewal_starts_the_ttl_again_by_our_clock() -> None:
    tracker = ExpiryTracker()
    tracker.observe(session(renew_time=START), now=0.0)
    # The laptop's clock may be years off, and may go backwards: only the change counts.
    tracker.observe(session(renew_time=START - timedelta(days=4000)), now=3000.0)
    assert tracker.expired(now=6599.0) == []
    assert len(tracker.expired(now=6600.0)) == 1


def test_a_session_without_renew_time_expires_too() -> None:
    tracker = ExpiryTracker()
    tracker.observe(session(renew_time=None), now=0.0)
    assert len(tracker.expired(now=3600.0)) == 1


def test_the_latest_form_is_returned_and_forgotten_ones_are_not() -> None:
    tracker = ExpiryTracker()
    tracker.observe(session(host="old"), now=0.0)
    tracker.observe(session(host="new"), now=1.0)
    assert [each.host for each in tracker.expired(now=3600.0)] == ["new"]
    tracker.forget("s1")
    tracker.forget("s1")
    assert tracker.expired(now=1e9) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.floats(0, 5000)), max_size=30))
def test_expired_are_exactly_those_quiet_for_their_ttl(steps: list[tuple[int, int, float]]) -> None:
    tracker, now = ExpiryTracker(), 0.0
    changed: dict[str, tuple[int, float]] = {}
    for which, renewal, pause in steps:
        now += pause
        uid = f"s{which}"
        tracker.observe(session(uid, renew_time=START + timedelta(seconds=renewal)), now)
        if uid not in changed or changed[uid][0] != renewal:
            changed[uid] = (renewal, now)
        assert {each.uid for each in tracker.expired(now)} == {
            uid for uid, (_, since) in changed.items() if now - since >= 3600
        }
