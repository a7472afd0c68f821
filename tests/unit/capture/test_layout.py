"""The rules as they would be written, and what a packet meets in them."""

from pathlib import Path

import pytest

from tproxy.capture import nft
from tproxy.capture.layout import FAMILIES, IP4, Action, Family, Mark, input_, prerouting

GOLDEN = Path(__file__).with_name("rules.nft")


def test_the_table_is_as_it_was() -> None:
    """If not, and it is meant: `python -m tproxy.capture.nft > tests/unit/capture/rules.nft`."""
    assert nft.render() == GOLDEN.read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_verdict_but_open_is_rejected(family: Family) -> None:
    passed = {rule.mark for rule in prerouting(family) if rule.action is Action.PASS and rule.protocol == "tcp"}
    rejected = {rule.mark for rule in input_(family)}
    assert rejected == passed - {None} == {Mark.REFUSED, Mark.UNREACHABLE, Mark.FORBIDDEN}


def test_without_a_queue_connections_are_caught_at_once() -> None:
    rules = prerouting(IP4, ask=False)
    assert [rule.action for rule in rules if rule.protocol == "tcp"] == [Action.PASS, Action.CATCH]
    assert "queue" not in nft.render(ask=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_our_own_come_before_everything(family: Family) -> None:
    assert prerouting(family)[0].mark is Mark.OWN
    assert prerouting(family)[-1].action is Action.DROP
