"""Histograms of ID and OOD scores, one panel per score, which show what AUROC summarises."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from negprompt_cli.data.files.atomic import atomic_path
from negprompt_cli.steps.shared.measure import Measured

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe and Ito's palette, which colour-blind people can tell apart; the first is for ID."""
BINS = 40


def draw_histograms(measured: Measured, path: Path, *, scores: Sequence[str]) -> Path:
    """Draw the densities of ID images and of every OOD set for some scores; the suffix of `path` names the format."""
    # The object interface needs no display and does not touch pyplot's global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(scores), 3.4), layout="constrained")
    for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        everything = [measured.id_set, *measured.ood_sets]
        values = [s.table.scores[score] for s in everything]
        low, high = np.concatenate(values).min(), np.concatenate(values).max()
        # If all scores are equal, the bin still needs a width.
        edges = np.linspace(low, high if high > low else low + 1e-9, BINS + 1)
        for i, (scored, value) in enumerate(zip(everything, values, strict=True)):
            label = f"ID {scored.name}" if i == 0 else f"OOD {scored.name}"
            colour = COLOURS[i % len(COLOURS)]
            axes.hist(value, edges, density=True, histtype="stepfilled" if i == 0 else "step", color=colour, label=label,
                      alpha=0.35 if i == 0 else 1.0, linewidth=1.6)  # fmt: skip
        axes.set_title(score)
        axes.set_xlabel("score (higher = more in-distribution)")
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=5)
    figure.axes[0].set_ylabel("density")
    figure.axes[0].legend(fontsize=8, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix.removeprefix("."))
    return path
