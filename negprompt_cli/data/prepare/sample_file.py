"""Write a few-shot sample as an imglist, which other tools can read too, and a file with the names of its classes.

`FILE` has `path label` lines; `FILE`.classnames.txt (replacing the suffix) has `key<TAB>name` lines in label order. Paths
are relative to the data root if the images are below it, else to the list's folder, else absolute; `imglist` finds all
three.
Only a list with the word train in its name is used as a whole for training.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.sets.image_list import format_list
from negprompt_cli.data.sets.imagesets import ImageSet
from negprompt_cli.errors import UsageError


@dataclass(frozen=True)
class SampleFile:
    """The files that were written."""

    path: Path
    names: Path
    images: int
    classes: int
    short: dict[str, int]
    """For each class with fewer images than shots its key and number of images."""


def write_sample(images: ImageSet, *, shots: int, seed: int, out: Path, data_root: Path) -> SampleFile:
    """Draw `shots` images per class of labelled `images` and write the list and the class names.

    Raises:
        UsageError: the images have no classes, `shots` is below 1, or a list cannot contain the name of a file.
        NegPromptError: a file cannot be written.
    """
    if not images.classes:
        raise UsageError(f"{images.spec} has no classes, so shots cannot be drawn ({images.layout}).")
    sample = images.few_shot(shots, seed=seed)
    chosen = images.take(sample.indices)
    base = next((b for b in (data_root.absolute(), out.absolute().parent) if _all_below(chosen, b)), None)
    paths = [path.absolute() for path in chosen.paths]
    texts = [(path.relative_to(base) if base else path).as_posix() for path in paths]
    listed = format_list(texts, chosen.labels.tolist())
    names = out.with_suffix(".classnames.txt")
    atomic_write_text(names, "".join(f"{c.key}\t{c.name}\n" for c in images.classes))
    atomic_write_text(out, listed)
    return SampleFile(out, names, len(chosen), int(np.count_nonzero(np.bincount(chosen.labels))), sample.short)


def _all_below(images: ImageSet, folder: Path) -> bool:
    return all(path.absolute().is_relative_to(folder) for path in images.paths)
