"""How figures and lists are written for people, in messages, tables and pages."""

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of a table's cell; it is bold if `strong` and the output has bold."""

    text: str
    strong: bool = False


Cell = tuple[Span, ...]
"""A cell of a table."""


def cell(text: str) -> Cell:
    """A cell of plain text."""
    return (Span(text),)


def plain(cell: Cell) -> str:
    """The text of a cell."""
    return "".join(span.text for span in cell)


def texts(rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    """The texts of a table's cells."""
    return [[plain(cell) for cell in row] for row in rows]


def percent(value: float | None, deviation: float | None = None, *, decimals: int = 1) -> str:
    """A fraction in per cent without the sign, with `± deviation` if one is given; a dash for None."""
    if value is None:
        return "-"
    return f"{100 * value:.{decimals}f}" + ("" if deviation is None else f" ± {100 * deviation:.{decimals}f}")


def some_of(names: Sequence[object], most: int = 5) -> str:
    """The first names of a list, and how many more there are: `a, b, c and 5 more`."""
    left = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {left} more" if left > 0 else "")


def file_name(text: str) -> str:
    """A text as part of a file name: characters other than letters, digits and `-_.` become dashes."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
