"""Tables line up, and their cells can be split at spaces."""

from hypothesis import given
from hypothesis import strategies as st

from tproxy.text.table import render


def test_columns_line_up_and_lines_have_no_trailing_spaces() -> None:
    assert render(("NAME", "USER", "AGE"), [("web-1", None, "5m"), ("store", "Jane Doe", "")]) == (
        "NAME    USER       AGE\nweb-1   <none>     5m\nstore   Jane_Doe   <none>"
    )


def test_colour_does_not_count_for_the_width() -> None:
    plain = render(("STATE", "AGE"), [("Ready", "5m"), ("Pending", "1s")])
    coloured = render(("STATE", "AGE"), [("Ready", "5m"), ("Pending", "1s")], lambda _, text: f"\x1b[32m{text}\x1b[0m")
    assert coloured.replace("\x1b[32m", "").replace("\x1b[0m", "") == plain


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5))
def test_every_line_has_as_many_words_as_columns(rows: list[tuple[str, str, str]]) -> None:
    for line in render(("NAME", "B", "AGE"), rows).split("\n"):
        assert len(line.split(" ")) - line.split(" ").count("") == 3
