"""Recognise the columns of tables by their usual names and by their content."""

import re
from collections.abc import Callable, Collection, Sequence

from negprompt_cli.decisions import Decision
from negprompt_cli.wording import some_of

LABELS = (
    *("label", "labels", "class", "category", "target", "y", "classname", "labelname", "categoryname", "classid"),
    *("labelid", "categoryid", "classindex", "classidx", "labelidx", "species", "breed", "tag", "groundtruth"),
    *("gtlabel", "gt", "name"),
)
"""Names of columns with the classes of images, clearest first."""


def plain(name: str) -> str:
    """Return a column's name in lower case, without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name).casefold()


class Columns:
    """The columns of a table. `places` maps plain names to column numbers; of equal names it has the first.

    Args:
        header: the names of the m columns.
        rows: the rows, of m cells each.
    """

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.places = {plain(name): i for i, name in reversed(list(enumerate(header))) if plain(name)}
        self._rows = rows

    def cells(self, place: int) -> list[str]:
        """Return the cells of a column."""
        return [row[place] for row in self._rows]

    def pick(
        self, names: Sequence[str], fits: Callable[[list[str]], bool], taken: Collection[int | None] = ()
    ) -> int | None:
        """Return the number of the first column, not in `taken`, with one of these plain names and cells that fit."""
        places = (self.places[name] for name in names if name in self.places)
        return next((i for i in places if i not in taken and fits(self.cells(i))), None)


def label_column(columns: Sequence[str]) -> str | None:
    """Return the column that has the classes, recognised by its name; None if there is none."""
    named = {plain(name): name for name in reversed(columns)}
    return next((named[name] for name in LABELS if name in named), None)


def column_taken(what: str, where: str, found: Sequence[str], taken: str | None) -> list[Decision]:
    """Return a decision about the column that is read, if several are possible.

    Args:
        what: the content of the columns, as first word of a sentence.
        where: the table.
        found: all columns with such content.
        taken: the column that is read.
    """
    others = [name for name in found if name != taken]
    said = f"{what} of {where} are read from the column {taken}, not from {some_of(others)}."
    return [Decision("list-form", said, {"file": where, "column": taken, "not_read": others})] if others else []


def class_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns that may have the classes, by their names."""
    return [name for name in columns if plain(name) in LABELS]
