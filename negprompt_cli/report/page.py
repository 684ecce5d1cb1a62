"""The HTML page of a report: values in, one self-contained document out; pictures are inlined and nothing is fetched."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

import jinja2


@dataclass(frozen=True)
class Table:
    """A table: its first `names` columns are text, the others figures. `tall` tables scroll in a box of their own."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    names: int = 1
    tall: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture as PNG bytes, a text that says what it shows, and the files it is also in."""

    alt: str
    png: bytes
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Thumbnail:
    """A small JPEG with its caption: a bold first line and further lines."""

    jpeg: bytes
    title: str
    lines: list[str]


@dataclass(frozen=True)
class Gallery:
    """Thumbnails under a title."""

    title: str
    note: str
    thumbnails: list[Thumbnail]


@dataclass(frozen=True)
class PictureGroup:
    """Pictures under a title."""

    title: str
    note: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Section:
    """One run: facts as pairs of name and value, then tables, pictures and galleries."""

    key: str
    title: str
    limited: bool
    facts: list[tuple[str, str]]
    results: Table
    pictures: list[PictureGroup]
    tables: list[Table]
    galleries: list[Gallery]


def render_page(joint: Table | None, sections: Sequence[Section], *, version: str) -> str:
    """The page as HTML text; every value is escaped.

    Args:
        joint: a table of all runs, where there are several.
        sections: one per run.
        version: of this package, for the footer.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    text = (resources.files(__package__) / "page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(joint=joint, sections=sections, version=version)
