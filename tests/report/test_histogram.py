"""Histograms that a threshold moves through: counts below every edge against counting the scores themselves."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from negprompt_cli.report.histogram import Bins, draw, make_bins, outline

FLOATS = st.floats(-1e6, 1e6, allow_nan=False)


def check(bins: Bins, scores: list[float]) -> None:
    counts = bins.count(scores)
    assert (np.diff(bins.edges) > 0).all()
    assert len(counts) % bins.step == 0
    below = np.concatenate([[0], np.cumsum(counts)])
    assert below.tolist() == [sum(score < edge for score in scores) for edge in bins.edges]
    assert (below[0], below[-1]) == (0, len(scores))


@given(st.lists(FLOATS, min_size=1, max_size=60), st.none() | FLOATS)
@example([0.0, 5e-324], 5e-324)
@example([3e-9] * 4, 3e-9)
def test_counts_below_each_edge_are_exact(scores: list[float], threshold: float | None):
    bins = make_bins(scores, threshold)
    check(bins, scores)
    if threshold is not None:
        # The threshold is an edge, or so far outside that none or all are below it.
        assert int(bins.count(scores)[: bins.start].sum()) == sum(score < threshold for score in scores)


def test_far_scores_do_not_squeeze_the_others():
    scores = np.concatenate([np.random.default_rng(0).normal(size=5000), [-1e5, 1e5]])
    bins = make_bins(scores, 0.25)
    check(bins, scores.tolist())
    assert bins.edges[bins.start] == 0.25
    assert bins.axis[1] - bins.axis[0] < 8
    assert bins.count(scores)[0] >= 1


def test_bars_are_as_high_as_their_counts():
    bins = make_bins([0.0, 0.0, 0.0, 1.0], None)
    path = outline(bins, bins.count([0.0, 0.0, 0.0, 1.0]))
    heights = sorted({100 - float(part.split()[1]) for part in path.removesuffix("Z").split("L")[1:]})
    assert heights == pytest.approx([0, 100 / 3, 100], abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "texts"), [(-21.1, 0.7, "-20 -15 -10 -5 0"), (0.2511, 0.2589, "0.252 0.254 0.256 0.258")]
)
def test_ticks_are_round_numbers(low: float, high: float, texts: str):
    bins = make_bins(np.linspace(low, high, 1000), None)
    ticks = draw(bins, bins.count([low]), alt="", decided=False).ticks
    assert [text for _, text in ticks] == texts.split()
    assert [place for place, _ in ticks] == pytest.approx([bins.place(float(text)) / 10 for _, text in ticks])
