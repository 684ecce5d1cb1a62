"""Tables of classes for pages: how well they are recognised, and which are confused."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from negprompt_cli.engine.metrics.calibration import clopper_pearson
from negprompt_cli.report.page import Matrix, Table
from negprompt_cli.wording import percent

MATRIX_CLASSES = 20
"""Largest number of classes in a readable confusion matrix."""
PAIRS = 40
"""Largest number of confused pairs in a list."""
TALL_ROWS = 24
"""Tables with more rows scroll in their own box."""

TAKEN = "most often taken for"
"""Heading of the column of the most frequent (wrong) prediction."""

Labels = npt.NDArray[np.int64]


def interval(share: float, count: int) -> str:
    """The 95 % interval of a share of `count` images (Clopper and Pearson) in per cent, as `low to high`."""
    low, high = clopper_pearson(round(share * count), count)
    return f"{percent(low)} to {percent(high)}"


def class_table(
    title: str, labels: Labels, predictions: Labels, names: Sequence[str], accepted: npt.NDArray[np.bool_] | None
) -> Table:
    """A row per ID class, those with the lowest accuracy first.

    Args:
        title: the title of the table.
        labels: (n,) own classes; -1 for unknown ones, which are left out.
        predictions: (n,) predicted classes.
        names: names of all classes.
        accepted: (n,) which images the threshold accepts; None without a threshold.
    """
    rows = []
    for label in np.unique(labels[labels >= 0]).tolist():
        mine = labels == label
        size, share = int(mine.sum()), float((predictions[mine] == label).mean())
        kept = [] if accepted is None else [percent(float(accepted[mine].mean()))]
        taken = most_common(predictions[mine & (predictions != label)], names)
        rows.append((share, [names[label], str(size), percent(share), interval(share, size), *kept, taken]))
    header = ["class", "images", "accuracy", "95 % interval", *([] if accepted is None else ["accepted"]), TAKEN]
    cells = [row for _, row in sorted(rows)]
    note = "In per cent." + ("" if accepted is None else " Accepted: share of the images at or above the threshold.")
    return Table(title, header, cells, note, words=(0, len(header) - 1), tall=len(cells) > TALL_ROWS)


def most_common(predictions: Labels, names: Sequence[str]) -> str:
    """The most frequent class of predictions (n,), with its count; a dash if n is 0."""
    return next((f"{names[label]} ({n:,})" for label, n in Counter(predictions.tolist()).most_common(1)), "-")


def confusions(labels: Labels, predictions: Labels, names: Sequence[str]) -> Matrix | Table | None:
    """Confused classes: a matrix of few classes, or the most frequent pairs of many; None without errors.

    Args:
        labels: (n,) own classes.
        predictions: (n,) predicted classes.
        names: names of all classes.
    """
    wrong = labels != predictions
    if not wrong.any():
        return None
    present = np.union1d(labels, predictions[wrong])
    images = np.bincount(labels, minlength=len(names))
    if len(present) <= MATRIX_CLASSES:
        places = np.searchsorted(present, np.stack([labels, predictions]))
        counts = np.zeros((len(present), len(present)), dtype=np.int64)
        np.add.at(counts, (places[0], places[1]), 1)
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        return Matrix("Confusions", [names[i] for i in present.tolist()], counts.tolist(), shares.tolist())
    pairs, counts = np.unique(np.stack([labels[wrong], predictions[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:PAIRS]
    rows = [
        [names[own], names[other], str(count), percent(count / images[own])]
        for own, other, count in zip(*pairs[:, order].tolist(), counts[order].tolist(), strict=True)
    ]
    left = len(counts) - len(rows)
    note = "Share: of all images of the class, in per cent." + (f" {left:,} more pairs are not shown." * (left > 0))
    return Table(
        "Confusions", ["class", "taken for", "images", "share"], rows, note, words=(0, 1), tall=len(rows) > TALL_ROWS
    )
