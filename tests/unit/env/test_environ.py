"""Whose variables a command has that is given a container's as well."""

from hypothesis import given
from hypothesis import strategies as st

from tproxy.env.environ import combine

VARIABLES = st.dictionaries(st.sampled_from(["A", "B", "PATH", "HOME", "AB"]), st.sampled_from(["1", "2", ""]))


def test_the_commands_own_win_unless_a_pattern_says_otherwise() -> None:
    own, container = {"PATH": "/bin", "A": "1", "SAME": "x"}, {"PATH": "/app/bin", "A": "2", "B": "3", "SAME": "x"}
    assert combine(own, container) == ({"PATH": "/bin", "A": "1", "SAME": "x", "B": "3"}, ["A", "PATH"])
    assert combine(own, container, ["PA*"])[0]["PATH"] == "/app/bin"


@given(VARIABLES, VARIABLES, st.lists(st.sampled_from(["A", "A*", "*", "C"])))
def test_every_variable_has_the_value_of_one_of_them(
    own: dict[str, str], container: dict[str, str], include: list[str]
) -> None:
    combined, lost = combine(own, container, include)
    assert combined.keys() == own.keys() | container.keys()
    assert all(combined[name] in (own.get(name), container.get(name)) for name in combined)
    assert lost == sorted(name for name in container if combined[name] != container[name])
