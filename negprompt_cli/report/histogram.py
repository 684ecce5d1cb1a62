"""Histograms with a movable threshold: exact counts in narrow bins. The threshold is one of the edges.

A page cannot have a million scores, but it can have the number of scores between neighbouring edges for each class. So the
number of images below a threshold is exact if the threshold is an edge, and the slider of a page stops only at edges.

The bars are plain inline SVG, drawn here and, when a class is chosen, again by a few lines of `score.js`. A chart library
would be no better: matplotlib's pictures cannot follow a slider, and the scripts of plotly or bokeh add megabytes to each
page for one outline and one line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

STOPS = 240
"""Approximate number of positions of the threshold."""
BARS = (16, 80)
"""Smallest and largest number of bars drawn."""
OUTER = 0.001
"""Share of extreme scores at each end, which would squeeze the others together; the first and last bin count them."""
FAR = 0.25
"""A threshold outside the scores by more than this share of their range is not drawn to scale."""


@dataclass(frozen=True, eq=False)
class Bins:
    """Edges (k + 1,), ascending. Bin i has the scores with edges[i] <= score < edges[i + 1]; every score is in a bin.

    `axis`: the range that is drawn; the outer bins may be wider. `step`: number of bins in a bar, a divisor of k. `start`:
    index of the edge at the threshold, or the first or the last if the threshold is far outside; 0 without a threshold.
    """

    edges: Floats
    axis: tuple[float, float]
    step: int
    start: int

    def places(self, scores: npt.ArrayLike) -> Counts:
        """(n,) the bin of each score; scores outside are in the first or last bin."""
        found = np.searchsorted(self.edges, np.asarray(scores, dtype=np.float64), side="right") - 1
        return np.clip(found, 0, len(self.edges) - 2)

    def count(self, scores: npt.ArrayLike) -> Counts:
        """(k,) how many scores are in each bin."""
        return np.bincount(self.places(scores), minlength=len(self.edges) - 1)

    def place(self, value: float) -> float:
        """The position of a value on the drawn axis, from 0 to 1000."""
        low, high = self.axis
        return round(1000 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


def make_bins(scores: npt.ArrayLike, threshold: float | None, *, held_out: npt.ArrayLike | None = None) -> Bins:
    """Choose edges for n >= 1 finite scores.

    Args:
        scores: (n,) scores.
        threshold: becomes an edge, unless it is far outside the scores.
        held_out: (m,) scores of other images, which are drawn too.
    """
    values = np.asarray(scores, dtype=np.float64)
    groups = [values] if held_out is None else [values, np.asarray(held_out, dtype=np.float64)]
    ends = np.array([np.quantile(group, [OUTER, 1 - OUTER]) for group in groups])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    reach = (high - low) or abs(low) or 1.0
    near = threshold is not None and low - FAR * reach <= threshold <= high + FAR * reach
    anchor = threshold if near and threshold is not None else low
    low, high = min(low, anchor), max(high, anchor)
    bars = int(np.clip(2 * np.sqrt(min(map(len, groups))), *BARS))
    step = max(1, STOPS // bars)
    # Neighbouring edges must differ, even if all scores are the same.
    width = max((high - low) / STOPS, 1e-9 * max(abs(low), abs(high)), 1e-300)
    below = max(1, int(np.ceil((anchor - low) / width)))
    above = max(1, int(np.ceil((high - anchor) / width)))
    above += -(below + above) % step
    edges: Floats = anchor + width * np.arange(-below, above + 1, dtype=np.float64)
    axis = (float(edges[0]), float(edges[-1]))
    edges[0] = min(edges[0], values.min())
    edges[-1] = max(edges[-1], np.nextafter(values.max(), np.inf))
    start = below if near else 0
    if threshold is not None and not near and threshold > high:
        start = len(edges) - 1
    return Bins(edges, axis, step, start)


def outline(bins: Bins, counts: Counts) -> str:
    """The outline of the bars as the data of an SVG path in a box of 1000 x 100; the highest bar is as high as the box."""
    bars = counts.reshape(-1, bins.step).sum(axis=1)
    edges = bins.edges[:: bins.step]
    most = max(1, int(bars.max()))
    parts = ["M0 100"]
    for i, count in enumerate(bars.tolist()):
        y = f"{100 - 100 * count / most:.2f}"
        parts.append(f"L{bins.place(edges[i])} {y}L{bins.place(edges[i + 1])} {y}")
    return "".join(parts) + "L1000 100Z"


@dataclass(frozen=True)
class Histogram:
    """The input of `histogram_of`: SVG paths of all scores and of held-out ID images, and the position of the threshold."""

    alt: str
    bars: str
    held: str
    cut: float
    cut_shown: bool
    start: int
    stops: int
    ticks: Sequence[tuple[float, str]]


def draw(bins: Bins, counts: Counts, *, alt: str, held: Counts | None = None, decided: bool) -> Histogram:
    """Draw scores, and held-out ID scores if there are any. `decided`: whether there is a threshold to show."""
    return Histogram(
        alt=alt,
        bars=outline(bins, counts),
        held="" if held is None else outline(bins, held),
        cut=bins.place(float(bins.edges[bins.start])),
        cut_shown=decided,
        start=bins.start,
        stops=len(bins.edges) - 1,
        ticks=[(bins.place(value) / 10, f"{value:.10g}") for value in _round_values(*bins.axis)],
    )


def _round_values(low: float, high: float) -> list[float]:
    """Two to six multiples of 1, 2 or 5 times a power of ten between two values."""
    least = (high - low) / 6
    power = 10.0 ** np.floor(np.log10(least))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= least)
    # Adding zero turns -0 into 0.
    values: Floats = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1) + 0.0
    return list(map(float, values))
