"""Tables as kubectl prints them: columns by spaces, no lines, nothing to trip over for `awk`."""

from collections.abc import Callable, Sequence

from tproxy.text.printable import printable

EMPTY = "<none>"


def cell(value: object) -> str:
    """Text for one cell: never empty and without spaces, so that columns can be told apart by them."""
    words = [] if value is None else printable(str(value)).split()
    return "_".join(words) or EMPTY


def sentence(value: object) -> str:
    """Text for the last cell of a row, where nothing follows and spaces do no harm."""
    words = [] if value is None else printable(str(value)).split()
    return " ".join(words) or EMPTY


def render(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    paint: Callable[[str, str], str] | None = None,
    last: Callable[[object], str] = cell,
) -> str:
    """The table as text without a final line break.

    `paint(column, cell)` may add colour to a cell; widths are those of the bare text. `last` makes the
    texts of the last column, where `sentence` may be used.
    """
    texts = [[*map(cell, row[:-1]), last(row[-1])] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    lines = ["   ".join(name.ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip()]
    for row in texts:
        cells = []
        for name, text, width in zip(columns, row, widths, strict=True):
            shown = paint(name, text) if paint else text
            cells.append(shown + " " * (width - len(text)))
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines)
