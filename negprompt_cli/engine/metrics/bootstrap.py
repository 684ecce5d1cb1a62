"""Confidence intervals for the metrics by the percentile bootstrap (Efron, 1979).

ID and OOD samples are resampled with replacement, each within its own set, so both set sizes stay the same. The scores
are sorted once: a resample only changes how many samples have each distinct score.
The intervals describe the sampling of test images only, not the effect of training seeds or of the choice of OOD sets.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negprompt_cli.engine.metrics.detection import (
    METRICS,
    AcceptanceCurve,
    BoolArray,
    IntArray,
    acceptance_curve,
    area_under_roc,
    checked_correct,
    fpr_at_recall,
    metrics_of,
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
    samples: Sequence[tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None]],
    *,
    generator: np.random.Generator,
    n: int = 1000,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return the percentile bootstrap interval of each metric, averaged over detectors that judged the same images.

    A metric that is undefined on the samples or on a resample is left out.
    Each resample draws images, and every detector is measured on the same draw. The intervals therefore take into account
    that an image that is hard for one detector tends to be hard for all.

    Args:
        samples: for each detector, such as one per seed, ID scores (n_id,) and OOD scores (n_ood,), higher = more ID, and
            whether each ID image was classified correctly (n_id,), which `oscr` needs, or None. All detectors list the
            images in the same order.
        generator: source of randomness; equal states give equal intervals.
        n: number of resamples, at least 1.
        level: confidence level in (0, 1).

    Raises:
        ValueError: `n` or `level` out of range, scores that `evaluate_scores` refuses, or detectors that judged different
            numbers of images.
    """
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and level in (0, 1), got n={n} and level={level}")
    if len({(np.size(id_scores), np.size(ood_scores)) for id_scores, ood_scores, _ in samples}) != 1:
        raise ValueError("a mean needs at least one detector, and all must have judged the same images")
    whole, resamples = [], []
    start = copy.deepcopy(generator)
    for place, (id_scores, ood_scores, id_correct) in enumerate(samples):
        curve = acceptance_curve(id_scores, ood_scores, id_correct)
        id_ranks, ood_ranks = _ranks(id_scores, curve), _ranks(ood_scores, curve)
        correct = None if id_correct is None else checked_correct(id_correct, len(id_ranks))
        # Every detector gets the same draws.
        mine = copy.deepcopy(start) if place else generator
        whole.append(metrics_of(curve))
        resamples.append([metrics_of(_resampled(curve, id_ranks, ood_ranks, correct, mine)) for _ in range(n)])
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    for name in METRICS:
        values = [[getattr(resample, name) for resample in one] for one in resamples]
        if not any(None in one for one in values):
            low, high = np.quantile(np.mean(values, axis=0), tails)
            value = float(np.mean([getattr(one, name) for one in whole]))
            intervals[name] = Interval(value, float(low), float(high), level)
    return intervals


def bootstrap_average_ci(
    id_scores: npt.ArrayLike,
    ood_sets: Sequence[npt.ArrayLike],
    *,
    generator: np.random.Generator,
    n: int = 500,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return the intervals of AUROC and FPR95 (ID positive), each averaged over several OOD sets.

    All sets are compared with the same ID images, so each resample draws ID images once for all sets. Averaging the
    intervals of single sets would be wrong.

    Args:
        id_scores: (n_id,) scores of ID samples, higher = more ID.
        ood_sets: for each set (n_ood,) scores.
        generator: as for `bootstrap_ci`.
        n: as for `bootstrap_ci`.
        level: as for `bootstrap_ci`.

    Returns:
        Intervals named `auroc` and `fpr95_id_positive`.

    Raises:
        ValueError: as `bootstrap_ci`.
    """
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and level in (0, 1), got n={n} and level={level}")
    curves = [acceptance_curve(id_scores, scores) for scores in ood_sets]
    ranks = [(_ranks(id_scores, curve), _ranks(scores, curve)) for curve, scores in zip(curves, ood_sets, strict=True)]
    drawn = np.empty((n, 2, len(curves)))
    for one in drawn:
        chosen = generator.integers(np.size(id_scores), size=np.size(id_scores))
        for place, (curve, (id_ranks, ood_ranks)) in enumerate(zip(curves, ranks, strict=True)):
            m, others = len(curve.thresholds), generator.integers(len(ood_ranks), size=len(ood_ranks))
            resample = AcceptanceCurve(
                curve.thresholds, _running_counts(id_ranks[chosen], m), _running_counts(ood_ranks[others], m)
            )
            one[:, place] = area_under_roc(resample), fpr_at_recall(resample, 0.95)
    whole = np.mean([(area_under_roc(curve), fpr_at_recall(curve, 0.95)) for curve in curves], axis=0)
    low, high = np.quantile(drawn.mean(axis=2), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        name: Interval(float(whole[i]), float(low[i]), float(high[i]), level)
        for i, name in enumerate(("auroc", "fpr95_id_positive"))
    }


def _ranks(scores: npt.ArrayLike, curve: AcceptanceCurve) -> IntArray:
    """Return (n,): the index of each score among the curve's thresholds; 0 is the highest."""
    from_below = np.searchsorted(curve.thresholds[::-1], np.asarray(scores, dtype=np.float64))
    return (len(curve.thresholds) - 1 - from_below).astype(np.int64, copy=False)


def _resampled(
    curve: AcceptanceCurve,
    id_ranks: IntArray,
    ood_ranks: IntArray,
    correct: BoolArray | None,
    generator: np.random.Generator,
) -> AcceptanceCurve:
    """Return the curve of one resample at the thresholds of the original curve."""
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
    """Return (m + 1,): 0, then the numbers of ranks that are at most 0, 1, ..., m - 1."""
    return np.concatenate([[0], np.cumsum(np.bincount(ranks, minlength=m))]).astype(np.int64, copy=False)
