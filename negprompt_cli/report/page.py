"""HTML pages from values. A page is one file with its pictures inside, and fetches nothing.

All pages share a base and its style (`templates/base.html.j2`, `templates/style.css`), and parts such as tables, numbers,
galleries and a histogram. Every value is escaped.
"""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from negprompt_cli._version import __version__
from negprompt_cli.data.results.tables import utf8_text
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import Cell

DASHES = {"-": "", "--": "7 3", "-.": "7 3 2 3", ":": "2 3"}
"""The line styles as SVG writes them, for the legend of a page."""


@dataclass(frozen=True)
class Table:
    """A table. The columns `words` are text, the others are figures. A `tall` table scrolls in its own box."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""
    words: Collection[int] = (0,)
    tall: bool = False


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix of k classes: counts by own class and predicted class, and the share of each in its row."""

    title: str
    names: list[str]
    counts: list[list[int]]
    shares: list[list[float]]


@dataclass(frozen=True)
class Number:
    """A number at the top of a page: its name, its text, and smaller text after it. A script finds it by `key`."""

    name: str
    value: str
    more: str = ""
    key: str = ""


@dataclass(frozen=True)
class Mark:
    """An entry of a page's legend: a line, or a marker ('o', '^', 'v'), in the colour number `colour`."""

    text: str
    colour: int
    style: str = "-"
    marker: str = ""

    @property
    def dashes(self) -> str:
        """The line style as SVG writes it."""
        return DASHES.get(self.style, "")


@dataclass(frozen=True)
class Picture:
    """A picture as an SVG element, with its title and the files of the same picture."""

    title: str
    svg: str
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG (None if the image cannot be read) with its caption: a bold title and lines.

    `badge`: 'OOD', 'ID', '' if a script may set one, or None for no badge. `data`: data- attributes for a script. `path`:
    shown when the pointer is over the image.
    """

    jpeg: bytes | None
    title: str
    lines: list[str]
    badge: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True)
class Gallery:
    """Thumbnails under a title."""

    title: str
    note: str
    thumbnails: list[Thumbnail]


@dataclass(frozen=True)
class PictureGroup:
    """Pictures under a title, with one legend for all."""

    title: str
    note: str
    pictures: list[Picture]
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Section:
    """One evaluated run, beginning with the answer.

    `key`: begins the names of its parts. `answer`: sentences. `numbers`: three, with intervals, and a note. `scores`:
    the densities of the main score. `galleries`: what it gets most wrong. `results`: figures of all scores. `streams`:
    figures of scores that learn from the test images, apart from these, where there are any. `more`: pictures below.
    `facts`: configuration and digests.
    """

    key: str
    title: str
    limited: bool
    answer: Sequence[str]
    numbers: Sequence[Number]
    numbers_note: str
    scores: PictureGroup
    galleries: Sequence[Gallery]
    confusions: Matrix | Table | None
    tables: Sequence[Table]
    results: Table
    streams: Table | None
    more: Sequence[PictureGroup]
    folded: PictureGroup | None
    caught: Gallery | None
    facts: Sequence[tuple[str, str]]


def check_page(path: Path, *, overwrite: bool) -> None:
    """Check, before any work, that a page can be written.

    Raises:
        UsageError: it is a folder, its name does not end in .html, or it exists and `overwrite` is false.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Choose a file name that ends in .html.")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path}: the name of a page must end in .html.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists.", remedy="overwrite")


def render(template: str, **values: Any) -> str:
    """A page as HTML text.

    Args:
        template: name of a file in `templates`, without `.html.j2`.
        values: what it shows.
    """
    text = _environment().get_template(f"{template}.html.j2").render(version=__version__, **values)
    # File names need not be UTF-8.
    return str(utf8_text(text))


def render_page(joint: Sequence[Table], sections: Sequence[Section]) -> str:
    """The page of evaluated runs.

    Args:
        joint: tables of all runs, where there are several.
        sections: one per run.
    """
    return render("evaluation", joint=joint, sections=sections)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    # Keep a number and its per cent sign on one line.
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    return environment
