"""Tables of classes for pages: how well they are recognised, and which are confused."""

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

Labels = npt.NDArray[np.int64]


def interval(share: float, count: int) -> str:
    """The 95 % interval of a share of `count` images (Clopper and Pearson), as `low to high %`."""
    low, high = clopper_pearson(round(share * count), count)
    return f"{percent(low)} to {percent(high)} %"


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
    note = "Share: of all images of the class, in per cent." + (f" {left} more pairs are not shown." * (left > 0))
    return Table(
        "Confusions", ["class", "taken for", "images", "share"], rows, note, names=2, tall=len(rows) > TALL_ROWS
    )
