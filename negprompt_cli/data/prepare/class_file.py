"""The classes of a data set as a class list: what transfer, scoring by names and import read."""

from collections.abc import Sequence
from pathlib import Path

from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.sets.classnames import ClassLabel


def class_lines(classes: Sequence[ClassLabel]) -> str:
    """A line per class: `wnid name` where there is a wnid, since two pairs of ImageNet's share names, else the name."""
    return "".join(f"{c.wnid} {c.name}\n" if c.wnid else f"{c.name}\n" for c in classes)


def write_classes(classes: Sequence[ClassLabel], out: Path, *, overwrite: bool) -> None:
    """Write a class list.

    Raises:
        NegPromptError: the file cannot be written.
        UsageError: without `overwrite`, it is there already.
    """
    text = class_lines(classes)
    if not (out.is_file() and out.read_text("utf-8") == text):
        atomic_write_text(out, text, replace=overwrite)
