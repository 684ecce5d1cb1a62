"""Write the classes of a data set as a class list, which transfer, scoring by names and import can read."""

from collections.abc import Sequence
from pathlib import Path

from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.sets.classnames import ClassLabel


def class_lines(classes: Sequence[ClassLabel]) -> str:
    """Return one line per class: `wnid name` if there is a wnid (ImageNet has two pairs of equal names), else the name."""
    return "".join(f"{c.wnid} {c.name}\n" if c.wnid else f"{c.name}\n" for c in classes)


def write_classes(classes: Sequence[ClassLabel], out: Path, *, overwrite: bool) -> None:
    """Write a class list.

    Raises:
        NegPromptError: the file cannot be written.
        UsageError: `overwrite` is False and the file exists.
    """
    text = class_lines(classes)
    if not (out.is_file() and out.read_text("utf-8") == text):
        atomic_write_text(out, text, replace=overwrite)
