"""Figures of requests: counted, merged, carried, and what they say of times."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.objects import json_values
from tproxy.errors import InvalidError
from tproxy.model.figures import BUCKETS, Outcome, Requests, Timed, read_all

seconds = st.floats(0, 100)


def timed(*values: float) -> Timed:
    made = Timed()
    for value in values:
        made.add(value)
    return made


def test_quantiles_are_as_good_as_the_buckets() -> None:
    one = timed(*[0.002] * 98, 0.2, 20)
    assert one.count == 100
    assert 0.001 <= (one.quantile(0.5) or 0) <= 0.0025
    assert 0.1 <= (one.quantile(0.99) or 0) <= 0.25
    assert 10 <= (one.quantile(1.0) or 0) <= 30
    assert timed().quantile(0.5) is None
    assert timed(1000).quantile(0.5) == BUCKETS[-1]


@given(st.lists(seconds, min_size=1))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float]) -> None:
    for part in (0.5, 0.9, 0.99):
        exact = sorted(values)[max(0, -(-len(values) * int(part * 100) // 100) - 1)]
        found = timed(*values).quantile(part)
        low = max([0.0, *(bound for bound in BUCKETS if bound < exact)])
        high = min([bound for bound in BUCKETS if bound >= exact] or [BUCKETS[-1]])
        assert found is not None
        assert low <= found <= high


@given(st.lists(st.tuples(st.sampled_from(Outcome), seconds)), st.lists(st.tuples(st.sampled_from(Outcome), seconds)))
def test_what_is_merged_is_the_sum_and_survives_the_tunnel(
    one: list[tuple[Outcome, float]], two: list[tuple[Outcome, float]]
) -> None:
    def requests(items: list[tuple[Outcome, float]]) -> Requests:
        made = Requests()
        for outcome, value in items:
            if outcome is Outcome.PASSED:
                made.passed += 1
            else:
                made.timed.setdefault(outcome, Timed()).add(value)
        return made

    total, both = requests(one), requests([*one, *two])
    total.merge(requests(two))
    for outcome in Outcome:
        assert total.count(outcome) == both.count(outcome) == sum(each[0] is outcome for each in [*one, *two])
    back = read_all(json.loads(json.dumps({"intercepts": {"uid": total.to_json()}})), 1)["uid"]
    assert back.to_json() == total.to_json()


@given(json_values)
def test_anything_else_is_refused(value: object) -> None:
    with contextlib.suppress(InvalidError):
        Requests.from_json(value)
    with contextlib.suppress(InvalidError):
        read_all(value, 10)


@pytest.mark.parametrize(
    "timed", [{"buckets": [1], "seconds": 1}, {"buckets": [-1] * 15, "seconds": 1}, {"buckets": [0] * 15}]
)
def test_what_makes_no_sense(timed: object) -> None:
    with pytest.raises(InvalidError):
        Requests.from_json({"timed": {"matched": timed}})


def test_outcomes_of_a_newer_node_are_left_out() -> None:
    assert Requests.from_json({"passed": 1, "timed": {"teleported": {}}}).timed == {}
