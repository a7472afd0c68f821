"""Which of this laptop's intercepts a new one is."""

from dataclasses import replace

import pytest
from tproxy_cli.daemon import ours
from tproxy_cli.daemon.held import Held
from tproxy_cli.daemon.state import LaptopPort, SavedIntercept

from tproxy.errors import ConflictError
from tproxy.model.conditions import AUTO_HEADER
from tproxy.model.intercept import InterceptPort, Target
from tproxy.model.match import HeaderMatch, Match

PORTS = (LaptopPort(3000, InterceptPort(80)),)
GLOBAL = SavedIntercept("web-1", "uid-1", Target("Deployment", "web"), PORTS, "fallback", "app")
ADA = Match((HeaderMatch("x-user", "ada"),))
BOB = Match((HeaderMatch("x-user", "bob"),))


def personal(match: Match) -> SavedIntercept:
    return replace(GLOBAL, match=match)


def test_what_was_asked_before_is_the_same_also_with_another_laptop_port() -> None:
    for one in (GLOBAL, personal(ADA)):
        held = Held(one)
        again = replace(one, name="web-2", uid="", ports=(LaptopPort(4000, InterceptPort(80)),))
        assert ours.same([held], again) is held


@pytest.mark.parametrize("other", [GLOBAL, personal(BOB)])
def test_requests_of_others_are_no_obstacle(other: SavedIntercept) -> None:
    assert ours.same([Held(other)], personal(ADA)) is None
    assert ours.same([Held(personal(ADA))], other) is None
    assert not ours.in_the_way(other, personal(ADA))


@pytest.mark.parametrize(
    "other",
    [
        personal(Match(ADA.headers, method="GET")),
        replace(personal(ADA), on_refused="fallback"),
        replace(personal(ADA), ports=(*PORTS, LaptopPort(3001, InterceptPort(81)))),
    ],
)
def test_what_overlaps_is_refused_by_name(other: SavedIntercept) -> None:
    with pytest.raises(ConflictError) as refused:
        ours.same([Held(other)], personal(ADA))
    assert "for requests with x-user=ada" in refused.value.message
    assert refused.value.hint == "`tproxy leave web-1` first"


def test_other_workloads_ports_and_those_being_left_do_not_matter() -> None:
    elsewhere = replace(GLOBAL, target=Target("Deployment", "api"))
    other_port = replace(GLOBAL, ports=(LaptopPort(3000, InterceptPort(81)),))
    assert ours.same([Held(elsewhere), Held(other_port), Held(GLOBAL, leaving=True)], GLOBAL) is None


def test_a_repeated_command_gets_the_header_it_made() -> None:
    made = personal(Match((HeaderMatch(AUTO_HEADER, "5f1c"), HeaderMatch("x-user", "ada"))))
    assert ours.fresh_value([Held(personal(ADA)), Held(made)], made.target, PORTS) == "5f1c"
    assert ours.fresh_value([Held(made, leaving=True)], made.target, PORTS) == ""
    assert ours.fresh_value([Held(made)], Target("Deployment", "api"), PORTS) == ""
    assert ours.fresh_value([Held(made)], made.target, (LaptopPort(1, InterceptPort(2)),)) == ""
