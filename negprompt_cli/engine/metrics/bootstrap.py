"""Confidence intervals for the metrics by the percentile bootstrap (Efron, 1979).

ID and OOD samples are resampled with replacement, each within its own set, so the two set sizes stay as they are. The
scores are ranked once: a resample only changes how many samples sit at each distinct score, so no replicate sorts.
The intervals speak of the sampling of test images alone, not of training seeds or of the choice of OOD sets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from negprompt_cli.engine.metrics.detection import (
    AcceptanceCurve,
    BoolArray,
    IntArray,
    acceptance_curve,
    area_under_oscr,
    area_under_roc,
    area_under_threshold_curves,
    average_precision,
    checked_correct,
    fpr_at_recall,
    lowest_detection_error,
)

CURVE_METRICS: Mapping[str, Callable[[AcceptanceCurve], float]] = MappingProxyType(
    {
        "auroc": area_under_roc,
        "aupr_in": average_precision,
        "aupr_out": lambda curve: average_precision(curve.mirrored()),
        "fpr95_id_positive": lambda curve: fpr_at_recall(curve, 0.95),
        "fpr95_ood_positive": lambda curve: fpr_at_recall(curve.mirrored(), 0.95),
        "detection_error": lowest_detection_error,
        "oscr": area_under_oscr,
        "autc": area_under_threshold_curves,
    }
)


@dataclass(frozen=True)
class Interval:
    """A metric and its confidence interval, as fractions.

    Attributes:
        value: the metric on the samples themselves.
        low: lower end of the interval.
        high: upper end of the interval.
        level: the confidence level, for instance 0.95.
    """

    value: float
    low: float
    high: float
    level: float


def bootstrap_ci(
    id_scores: npt.ArrayLike,
    ood_scores: npt.ArrayLike,
    id_correct: npt.ArrayLike | None = None,
    *,
    generator: np.random.Generator,
    metrics: Sequence[str] = ("auroc", "fpr95_id_positive"),
    n: int = 1000,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return the percentile bootstrap interval of each metric asked for; all come from the same resamples.

    Args:
        id_scores: (n_id,) scores of ID samples, higher = more ID.
        ood_scores: (n_ood,) scores of OOD samples.
        id_correct: (n_id,) whether each ID sample was classified correctly; needed for `oscr`.
        generator: the source of randomness; the same state gives the same intervals.
        metrics: names of `CURVE_METRICS`, which are the fields of `OodMetrics`.
        n: number of resamples, at least 1.
        level: confidence level in (0, 1).

    Raises:
        ValueError: an unknown metric, `oscr` without `id_correct`, `n` or `level` out of range, scores that
            `evaluate_scores` refuses, or a metric that is undefined on the samples or on a resample (`autc` of equal
            scores).
    """
    unknown = sorted(set(metrics) - set(CURVE_METRICS))
    if unknown:
        raise ValueError(f"unknown metrics {unknown}: choose from {list(CURVE_METRICS)}")
    if "oscr" in metrics and id_correct is None:
        raise ValueError("oscr needs id_correct")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and level in (0, 1), got n={n} and level={level}")

    curve = acceptance_curve(id_scores, ood_scores, id_correct)
    id_ranks, ood_ranks = _ranks(id_scores, curve), _ranks(ood_scores, curve)
    correct = None if id_correct is None else checked_correct(id_correct, len(id_ranks))
    values = [CURVE_METRICS[name](curve) for name in metrics]
    resamples: list[list[float]] = []
    for _ in range(n):
        resample = _resampled(curve, id_ranks, ood_ranks, correct, generator)
        resamples.append([CURVE_METRICS[name](resample) for name in metrics])
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.asarray(resamples), tails, axis=0)
    return {
        name: Interval(value, float(low[i]), float(high[i]), level)
        for i, (name, value) in enumerate(zip(metrics, values, strict=True))
    }


def _ranks(scores: npt.ArrayLike, curve: AcceptanceCurve) -> IntArray:
    """Return (n,): for each score its place among the curve's thresholds, 0 for the highest."""
    from_below = np.searchsorted(curve.thresholds[::-1], np.asarray(scores, dtype=np.float64))
    return (len(curve.thresholds) - 1 - from_below).astype(np.int64, copy=False)


def _resampled(
    curve: AcceptanceCurve,
    id_ranks: IntArray,
    ood_ranks: IntArray,
    correct: BoolArray | None,
    generator: np.random.Generator,
) -> AcceptanceCurve:
    """Return the curve of one resample, over the thresholds of the original."""
    m = len(curve.thresholds)
    id_drawn = generator.integers(len(id_ranks), size=len(id_ranks))
    ood_drawn = generator.integers(len(ood_ranks), size=len(ood_ranks))
    return AcceptanceCurve(
        thresholds=curve.thresholds,
        accepted_id=_running_counts(id_ranks[id_drawn], m),
        accepted_ood=_running_counts(ood_ranks[ood_drawn], m),
        accepted_correct=None if correct is None else _running_counts(id_ranks[id_drawn[correct[id_drawn]]], m),
    )


def _running_counts(ranks: IntArray, m: int) -> IntArray:
    """Return (m + 1,): 0, then how many of the ranks are at most 0, 1, ..., m - 1."""
    return np.concatenate([[0], np.cumsum(np.bincount(ranks, minlength=m))]).astype(np.int64, copy=False)
