"""Strategies and builders for the model's values."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from tproxy.model.intercept import Intercept, InterceptPort, NodeState, NodeStatus, PodStatus, Target
from tproxy.model.match import BaggageMatch, HeaderMatch, Match, MatchKind, PathMatch
from tproxy.model.pattern import compile_pattern
from tproxy.model.session import MAX_TTL_SECONDS, MIN_TTL_SECONDS, Session

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
uids = st.uuids().map(str)
texts = st.text(max_size=64)
times = st.datetimes(timezones=st.just(UTC))
whole_seconds = times.map(lambda time: time.replace(microsecond=0))

sessions = st.builds(
    Session,
    namespace=names,
    name=names,
    uid=uids,
    token_hash=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    user=texts,
    host=texts,
    renew_time=st.none() | times,
    ttl_seconds=st.integers(MIN_TTL_SECONDS, MAX_TTL_SECONDS),
)

_tokens = st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
compile_pattern(".*")  # what this takes the first time is no example's fault
patterns = st.sampled_from([".*", "a+", "a.*", "(ada|bob)", "[0-9]+", "(?i)x", "\\w+"])
header_matches = st.builds(HeaderMatch, _tokens, texts) | st.builds(HeaderMatch, _tokens, patterns, st.just(True))
baggage_matches = st.builds(BaggageMatch, _tokens, texts) | st.builds(BaggageMatch, _tokens, patterns, st.just(True))
path_matches = st.builds(PathMatch, texts, st.sampled_from([MatchKind.EXACT, MatchKind.PREFIX])) | st.builds(
    PathMatch, patterns, st.just(MatchKind.REGEX)
)
matches = st.builds(
    Match,
    headers=st.lists(header_matches, min_size=1, max_size=4).map(tuple),
    path=st.none() | path_matches,
    method=st.sampled_from(["", "GET", "POST"]),
    baggage=st.lists(baggage_matches, max_size=3).map(tuple),
)
ports = st.builds(InterceptPort, port=st.integers(1, 65535), protocol=st.sampled_from(["TCP", "UDP"]))
pod_statuses = st.builds(
    PodStatus,
    name=names,
    uid=uids,
    state=st.sampled_from(NodeState),
    reason=names,
    message=texts,
    connections=st.integers(0, 2**31 - 1),
    staying=texts,
)
node_statuses = st.builds(
    NodeStatus,
    state=st.sampled_from(NodeState),
    reason=names,
    message=texts,
    pods=st.lists(pod_statuses, max_size=3).map(tuple),
)
intercepts = st.builds(
    Intercept,
    namespace=names,
    name=names,
    uid=uids,
    session=names,
    session_uid=uids,
    target=st.builds(Target, kind=st.from_regex(r"[A-Z][A-Za-z0-9]{0,20}", fullmatch=True), name=names),
    ports=st.lists(ports, min_size=1, max_size=4, unique=True).map(tuple),
    match=st.none() | matches,
    on_disconnect=st.sampled_from(["fallback", "fail"]),
    on_refused=st.sampled_from(["fail", "fallback"]),
    probes=st.sampled_from(["app", "laptop"]),
    existing=st.sampled_from(["idle", "keep", "reset"]),
    drain_seconds=st.integers(0, 3600),
    created=st.none() | whole_seconds,
    nodes=st.dictionaries(names, node_statuses, max_size=3),
    deleting=st.booleans(),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def session(uid: str = "s1", **changes: object) -> Session:
    """A Session, with some fields set."""
    values: dict[str, object] = {
        "namespace": "shop",
        "name": f"laptop-{uid}",
        "uid": uid,
        "token_hash": "0" * 64,
        "user": "ada",
        "host": "laptop",
        "renew_time": datetime(2026, 1, 1, tzinfo=UTC),
        "ttl_seconds": 3600,
    }
    return Session(**(values | changes))  # type: ignore[arg-type]


def intercept(uid: str = "i1", **changes: object) -> Intercept:
    """An Intercept of port 80 of deployment web, with some fields set."""
    values: dict[str, object] = {
        "namespace": "shop",
        "name": f"web-{uid}",
        "uid": uid,
        "session": "laptop-s1",
        "session_uid": "s1",
        "target": Target("Deployment", "web"),
        "ports": (InterceptPort(80),),
        "created": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Intercept(**(values | changes))  # type: ignore[arg-type]
