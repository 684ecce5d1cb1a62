"""The metrics of OOD detection, from the scores of ID and OOD samples.

All functions follow one convention: a higher score means more in-distribution (ID), ID is the positive class, and a
sample is accepted as ID at threshold t if its score is >= t. Results are fractions, not per cent. Samples with equal
scores pass a threshold together, so the order of the input does not matter.

Metrics are exact in float64 over all distinct thresholds. The scores are sorted once and counted once
(`AcceptanceCurve`), and every metric is computed from the counts. Two conventions of FPR95 are in use, and their values
differ by many points. Both are computed; their names say which class is positive. Curves for plotting come from
scikit-learn. No metric chooses a threshold on OOD data.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class AcceptanceCurve:
    """The numbers of samples accepted as ID at each of the m distinct scores as threshold.

    Each array of counts has m + 1 entries. Entry 0 is 0: nothing is accepted. Entry j counts the samples with a score of at
    least `thresholds[j - 1]`, so the last entry counts all samples.

    Attributes:
        thresholds: (m,) the distinct scores, from highest to lowest.
        accepted_id: (m + 1,) accepted ID samples.
        accepted_ood: (m + 1,) accepted OOD samples.
        accepted_correct: (m + 1,) accepted ID samples whose class was predicted correctly, or None if unknown.
    """

    thresholds: FloatArray
    accepted_id: IntArray
    accepted_ood: IntArray
    accepted_correct: IntArray | None = None

    @property
    def n_id(self) -> int:
        """Number of ID samples."""
        return int(self.accepted_id[-1])

    @property
    def n_ood(self) -> int:
        """Number of OOD samples."""
        return int(self.accepted_ood[-1])

    @cached_property
    def recall(self) -> FloatArray:
        """(m + 1,) the share of ID samples that are accepted."""
        return self.accepted_id / self.n_id

    @cached_property
    def fallout(self) -> FloatArray:
        """(m + 1,) the share of OOD samples that are accepted."""
        return self.accepted_ood / self.n_ood

    @cached_property
    def precision(self) -> FloatArray:
        """(m + 1,) the share of ID among the accepted samples; 1 if none is accepted."""
        accepted = self.accepted_id + self.accepted_ood
        shares: FloatArray = np.divide(self.accepted_id, accepted, out=np.ones(len(accepted)), where=accepted > 0)
        return shares

    def mirrored(self) -> "AcceptanceCurve":
        """Return the curve of the negated scores with ID and OOD exchanged, so that it accepts OOD samples.

        A metric with ID positive, computed on the mirrored curve, is the same metric with OOD positive.
        """
        return AcceptanceCurve(
            thresholds=-self.thresholds[::-1],
            accepted_id=self.n_ood - self.accepted_ood[::-1],
            accepted_ood=self.n_id - self.accepted_id[::-1],
        )


class OodMetrics(BaseModel):
    """All metrics of one ID set against one OOD set, as fractions in [0, 1].

    Attributes:
        auroc: area under the ROC curve; 0.5 is chance.
        aupr_in: average precision with ID positive.
        aupr_out: average precision with OOD positive.
        fpr95_id_positive: share of OOD accepted at the threshold that accepts 95 % of ID.
        fpr95_ood_positive: share of ID rejected at the threshold that catches 95 % of OOD.
        oscr: area under the correct-classification rate over the share of OOD accepted; None if it is unknown which ID
            samples were classified correctly.
        detection_error: lowest mean of the two error rates over all thresholds; 0.5 is chance.
        autc: area under the threshold curves, lower is better; None if all scores are equal, because it is then
            undefined.
        aupr_in_trapezoid: area under the precision-recall curve by trapezoids, ID positive.
        aupr_out_trapezoid: the same, OOD positive.
    """

    model_config = ConfigDict(frozen=True)

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95_id_positive: float
    fpr95_ood_positive: float
    oscr: float | None
    detection_error: float
    autc: float | None
    aupr_in_trapezoid: float
    aupr_out_trapezoid: float


METRICS = tuple(OodMetrics.model_fields)


def evaluate_scores(
    id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike, id_correct: npt.ArrayLike | None = None
) -> OodMetrics:
    """Return all metrics; the scores are sorted once.

    Args:
        id_scores: (n,) scores of ID samples, higher = more ID.
        ood_scores: (m,) scores of OOD samples.
        id_correct: (n,) whether the class of each ID sample was predicted correctly; needed for `oscr`.

    Raises:
        ValueError: scores are empty, not one-dimensional, NaN or infinite, or `id_correct` does not fit `id_scores`.
    """
    return metrics_of(acceptance_curve(id_scores, ood_scores, id_correct))


def metrics_of(curve: AcceptanceCurve) -> OodMetrics:
    """Return all metrics of a curve."""
    mirrored = curve.mirrored()
    return OodMetrics(
        auroc=area_under_roc(curve),
        aupr_in=average_precision(curve),
        aupr_out=average_precision(mirrored),
        fpr95_id_positive=fpr_at_recall(curve, 0.95),
        fpr95_ood_positive=fpr_at_recall(mirrored, 0.95),
        oscr=area_under_oscr(curve),
        detection_error=lowest_detection_error(curve),
        autc=area_under_threshold_curves(curve),
        aupr_in_trapezoid=trapezoid_aupr(curve),
        aupr_out_trapezoid=trapezoid_aupr(mirrored),
    )


def acceptance_curve(
    id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike, id_correct: npt.ArrayLike | None = None
) -> AcceptanceCurve:
    """Count the samples that each threshold accepts; O(n log n). Arguments and errors are those of `evaluate_scores`."""
    id_values, ood_values = checked_scores(id_scores, "ID"), checked_scores(ood_scores, "OOD")
    id_sorted, ood_sorted = np.sort(id_values), np.sort(ood_values)
    both = np.concatenate([id_sorted, ood_sorted])
    both.sort()
    ascending = both[np.concatenate([[True], both[1:] != both[:-1]])]
    correct = None if id_correct is None else checked_correct(id_correct, len(id_values))
    return AcceptanceCurve(
        thresholds=ascending[::-1],
        accepted_id=_accepted(id_sorted, ascending),
        accepted_ood=_accepted(ood_sorted, ascending),
        accepted_correct=None if correct is None else _accepted(np.sort(id_values[correct]), ascending),
    )


def area_under_roc(curve: AcceptanceCurve) -> float:
    """Return the AUROC: the probability that a random ID sample scores above a random OOD sample; a tie counts one half.

    It equals scikit-learn's `roc_auc_score`. The area is an integer number of half pairs, so only the final division
    rounds.
    """
    return _area(curve.accepted_ood, curve.accepted_id) / (curve.n_id * curve.n_ood)


def average_precision(curve: AcceptanceCurve) -> float:
    """Return the average precision sum_j (recall_j - recall_{j-1}) * precision_j.

    The class that the curve accepts is positive. The result equals scikit-learn's `average_precision_score`.
    """
    return float(np.dot(np.diff(curve.accepted_id), curve.precision[1:])) / curve.n_id


def trapezoid_aupr(curve: AcceptanceCurve) -> float:
    """Return the area under the precision-recall curve by trapezoids from (0, 1).

    The class that the curve accepts is positive. OpenOOD and pytorch-ood call this AUPR. It differs from average precision
    a little, but by more than rounding.
    """
    return float(np.dot(np.diff(curve.recall), curve.precision[1:] + curve.precision[:-1])) / 2


def fpr_at_recall(curve: AcceptanceCurve, recall: float) -> float:
    """Return the share of false acceptances at the highest threshold that accepts at least `recall` of the positives.

    MCM, LoCoOp and NegPrompt compute it on the curve itself ("ID positive"), OpenOOD and pytorch-ood on the mirrored curve
    ("OOD positive").

    Raises:
        ValueError: `recall` is not in (0, 1].
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be in (0, 1], got {recall}")
    first = int(np.searchsorted(curve.recall, recall, side="left"))
    return float(curve.fallout[first])


def lowest_detection_error(curve: AcceptanceCurve) -> float:
    """Return the lowest mean of "ID rejected" and "OOD accepted" over all thresholds; in [0, 0.5].

    Liang et al., "Enhancing the reliability of out-of-distribution image detection in neural networks", ICLR 2018.
    """
    return float(((1 - curve.recall) + curve.fallout).min()) / 2


def area_under_oscr(curve: AcceptanceCurve) -> float | None:
    """Return the open-set classification rate (OSCR), or None if it is unknown which samples were classified correctly.

    Dhamija et al., "Reducing network agnostophobia", NeurIPS 2018: the area under CCR over FPR. At each threshold, CCR is
    the share of all ID samples that are accepted and classified correctly, and FPR is the share of OOD samples that are
    accepted. The area is computed by trapezoids, so ties of ID and OOD samples count one half, as for AUROC. OSCR is at
    most the accuracy; perfect detection reaches it.
    """
    if curve.accepted_correct is None:
        return None
    return _area(curve.accepted_ood, curve.accepted_correct) / (curve.n_id * curve.n_ood)


def area_under_threshold_curves(curve: AcceptanceCurve) -> float | None:
    """Return the AUTC, lower is better, or None if all scores are equal. It depends on the distances between scores.

    Humblot-Renaux et al., "Beyond AUROC & co. for evaluating out-of-distribution detection performance", CVPR Workshops
    2023: the mean of the areas under "OOD accepted" and "ID rejected" over thresholds in [0, 1]. Both areas are means of
    scores. The scores are first scaled so that the lowest of all samples is 0 and the highest is 1. The paper does not
    define the scaling; pytorch-ood uses the same.

    Raises:
        ValueError: the difference of the highest and lowest score exceeds float64.
    """
    # A resampled curve may have no sample at its outermost thresholds.
    present = np.flatnonzero(np.diff(curve.accepted_id) + np.diff(curve.accepted_ood))
    high, low = float(curve.thresholds[present[0]]), float(curve.thresholds[present[-1]])
    if high == low:
        return None
    if not np.isfinite(high - low):
        raise ValueError(f"AUTC cannot scale scores from {low} to {high}: the difference exceeds float64")
    scaled = (curve.thresholds - low) / (high - low)
    id_mean = float(np.dot(np.diff(curve.accepted_id), scaled)) / curve.n_id
    ood_mean = float(np.dot(np.diff(curve.accepted_ood), scaled)) / curve.n_ood
    return (1 - id_mean + ood_mean) / 2


def checked_scores(scores: npt.ArrayLike, which: str) -> FloatArray:
    """Return the scores (n,) as float64.

    Raises:
        ValueError: scores are empty, not one-dimensional, NaN or infinite; the message names `which` (ID or OOD).
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"{which} scores must be one-dimensional, got shape {values.shape}")
    if values.size == 0:
        raise ValueError(f"there are no {which} scores; the metrics need both ID and OOD samples")
    if not np.isfinite(values).all():
        nans = int(np.isnan(values).sum())
        infinite = int(np.isinf(values).sum())
        raise ValueError(f"{which} scores contain {nans} NaN and {infinite} infinite values of {values.size}")
    return values


def checked_correct(id_correct: npt.ArrayLike, n_id: int) -> BoolArray:
    """Return `id_correct` as booleans (n_id,).

    Raises:
        ValueError: it does not have one entry per ID sample, or an entry is not boolean, 0 or 1.
    """
    values = np.asarray(id_correct)
    if values.shape != (n_id,):
        raise ValueError(f"id_correct must have one entry per ID score, {(n_id,)}, got shape {values.shape}")
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError("id_correct must be boolean or hold only 0 and 1")
    return values.astype(np.bool_)


def _accepted(ascending_scores: FloatArray, ascending_thresholds: FloatArray) -> IntArray:
    """Return (m + 1,): 0, then the number of scores >= each threshold, from the highest threshold to the lowest."""
    below = np.searchsorted(ascending_scores, ascending_thresholds, side="left")
    return np.concatenate([[0], len(ascending_scores) - below[::-1]]).astype(np.int64, copy=False)


def _area(x: IntArray, y: IntArray) -> float:
    """Return the area under the line through the integer points (x, y) with rising x."""
    return int(np.dot(np.diff(x), y[1:] + y[:-1])) / 2
