"""Recognise the columns of tables by their usual names and by their content."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class ImageColumns:
    """The columns of a table that may have images, and those that may have their classes; one of each is read."""

    where: str
    images: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def image(self) -> str | None:
        """The column of images: the one called image or img, or else the first; None if there is none."""
        first = next(iter(self.images), None)
        return next((name for name in self.images if name.lower() in ("image", "img")), first)

    @property
    def label(self) -> str | None:
        """The column of classes: the one with the clearest name, or else the first; None if there is none."""
        named = {plain(name): name for name in reversed(self.labels)}
        return next((named[name] for name in LABELS if name in named), next(iter(self.labels), None))

    def decisions(self, *, labels: bool = True) -> list[Decision]:
        """Return decisions about the columns of images and, with `labels`, of classes, if several are possible."""
        made = []
        classes = [("Classes", self.labels, self.label)] if labels else []
        for what, found, taken in [("Images", self.images, self.image), *classes]:
            if others := [name for name in found if name != taken]:
                said = f"{what} of {self.where} are read from the column {taken}, not from {some_of(others)}."
                made.append(Decision("list-form", said, {"file": self.where, "column": taken, "not_read": others}))
        return made


def class_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns that may have the classes, by their names."""
    return [name for name in columns if plain(name) in LABELS]
