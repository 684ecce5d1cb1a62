"""The metrics of OOD detection, from the scores of ID and OOD samples.

Convention, for every function here: a higher score means more in-distribution (ID), ID is the positive class, and a
sample is accepted as ID at threshold t when its score is >= t. Results are fractions, not per cent. Samples with equal
scores pass a threshold together, so ties never depend on the order of the input.

Everything is exact in float64 over all distinct thresholds: one sort, then running counts (`AcceptanceCurve`), from
which each metric is a line or two; `evaluate_scores` shares the sort between all of them. Two conventions of FPR95 are
in use and differ by many points, so both are here under names that say which class is the positive one. Left out:
curves for plotting (scikit-learn draws them) and metrics that choose a threshold on OOD data.
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
    """How many samples are accepted as ID as the threshold falls through all m distinct scores.

    Each array of counts has m + 1 entries: entry 0 is "nothing accepted", entry j counts the samples with a score of at
    least `thresholds[j - 1]`, the last entry is everything.

    Attributes:
        thresholds: (m,) the distinct scores, from highest to lowest.
        accepted_id: (m + 1,) accepted ID samples.
        accepted_ood: (m + 1,) accepted OOD samples.
        accepted_correct: (m + 1,) accepted ID samples whose class was predicted correctly, or None if not known.
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
        """(m + 1,) the share of ID accepted."""
        return self.accepted_id / self.n_id

    @cached_property
    def fallout(self) -> FloatArray:
        """(m + 1,) the share of OOD accepted."""
        return self.accepted_ood / self.n_ood

    @cached_property
    def precision(self) -> FloatArray:
        """(m + 1,) the share of ID among what is accepted; 1 where nothing is."""
        accepted = self.accepted_id + self.accepted_ood
        shares: FloatArray = np.divide(self.accepted_id, accepted, out=np.ones(len(accepted)), where=accepted > 0)
        return shares

    def mirrored(self) -> "AcceptanceCurve":
        """Return the curve of the negated scores with ID and OOD exchanged: OOD is what gets accepted.

        Any metric with ID positive, taken on the mirrored curve, is the same metric with OOD positive.
        """
        return AcceptanceCurve(
            thresholds=-self.thresholds[::-1],
            accepted_id=self.n_ood - self.accepted_ood[::-1],
            accepted_ood=self.n_id - self.accepted_id[::-1],
        )


class OodMetrics(BaseModel):
    """All metrics of one ID set against one OOD set, as fractions in [0, 1]: the package's one list of metrics.

    Attributes:
        auroc: area under the ROC curve; 0.5 is chance.
        aupr_in: average precision with ID positive.
        aupr_out: average precision with OOD positive.
        fpr95_id_positive: share of OOD accepted at the threshold that accepts 95 % of ID.
        fpr95_ood_positive: share of ID rejected at the threshold that catches 95 % of OOD.
        oscr: area under the correct-classification rate over the share of OOD accepted; None where it is not known which
            ID samples were classified correctly.
        detection_error: lowest mean of the two error rates over all thresholds; 0.5 is chance.
        autc: area under the threshold curves, lower is better; None where all scores are equal, which leaves it
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
    """Return all metrics at once; the scores are sorted once and the counts shared.

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
    """Sort the scores and count what each threshold accepts; O(n log n). Arguments and errors as `evaluate_scores`."""
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
    """Return the AUROC: the probability that a random ID sample scores above a random OOD sample, ties counting half.

    Equals scikit-learn's `roc_auc_score`. The area is an integer number of half pairs, so only the last division rounds.
    """
    return _area(curve.accepted_ood, curve.accepted_id) / (curve.n_id * curve.n_ood)


def average_precision(curve: AcceptanceCurve) -> float:
    """Return sum_j (recall_j - recall_{j-1}) * precision_j with the accepted class of the curve positive.

    Equals scikit-learn's `average_precision_score`.
    """
    return float(np.dot(np.diff(curve.accepted_id), curve.precision[1:])) / curve.n_id


def trapezoid_aupr(curve: AcceptanceCurve) -> float:
    """Return the area under the precision-recall curve by trapezoids from (0, 1), the accepted class positive.

    What OpenOOD and pytorch-ood call AUPR. It differs from average precision by little, but by more than rounding.
    """
    return float(np.dot(np.diff(curve.recall), curve.precision[1:] + curve.precision[:-1])) / 2


def fpr_at_recall(curve: AcceptanceCurve, recall: float) -> float:
    """Return the share of false acceptances at the highest threshold that accepts at least `recall` of the positives.

    On a curve as it is the convention of MCM, LoCoOp and NegPrompt ("ID positive"), mirrored that of OpenOOD and
    pytorch-ood ("OOD positive").

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
    """Return the open-set classification rate: the area under correct classification over false acceptance, or None.

    Dhamija et al., "Reducing network agnostophobia", NeurIPS 2018: as the threshold falls, CCR is the share of all ID
    samples that are accepted and classified correctly, FPR the share of OOD samples accepted. The area is taken by
    trapezoids, so ID and OOD samples that tie count half, as for AUROC. At most the accuracy, which perfect detection
    reaches. None where the curve does not know what was classified correctly.
    """
    if curve.accepted_correct is None:
        return None
    return _area(curve.accepted_ood, curve.accepted_correct) / (curve.n_id * curve.n_ood)


def area_under_threshold_curves(curve: AcceptanceCurve) -> float | None:
    """Return the AUTC, lower is better, or None where all scores are equal; it depends on the scores' spacing.

    Humblot-Renaux et al., "Beyond AUROC & co. for evaluating out-of-distribution detection performance", CVPR Workshops
    2023: the mean of the areas under "OOD accepted" and "ID rejected" over thresholds in [0, 1], which are plain means of
    the scores. Scores are scaled to [0, 1] by the lowest and highest of all samples first, which the paper leaves open
    and pytorch-ood does alike.

    Raises:
        ValueError: the scores are farther apart than float64 can represent.
    """
    # A resampled curve may hold no sample at its outermost thresholds.
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
    """Return the scores as float64, or raise ValueError saying which (`ID`, `OOD`) scores are unusable and why."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"{which} scores must be one-dimensional, got shape {values.shape}")
    if values.size == 0:
        raise ValueError(f"there are no {which} scores: the metrics need both ID and OOD samples")
    if not np.isfinite(values).all():
        nans = int(np.isnan(values).sum())
        infinite = int(np.isinf(values).sum())
        raise ValueError(f"{which} scores contain {nans} NaN and {infinite} infinite values of {values.size}")
    return values


def checked_correct(id_correct: npt.ArrayLike, n_id: int) -> BoolArray:
    """Return `id_correct` as booleans, or raise ValueError if it is not one truth value (or 0/1) per ID sample."""
    values = np.asarray(id_correct)
    if values.shape != (n_id,):
        raise ValueError(f"id_correct must have one entry per ID score, {(n_id,)}, got shape {values.shape}")
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError("id_correct must be boolean or hold only 0 and 1")
    return values.astype(np.bool_)


def _accepted(ascending_scores: FloatArray, ascending_thresholds: FloatArray) -> IntArray:
    """Return (m + 1,): 0, then how many scores are >= each threshold, from the highest threshold down."""
    below = np.searchsorted(ascending_scores, ascending_thresholds, side="left")
    return np.concatenate([[0], len(ascending_scores) - below[::-1]]).astype(np.int64, copy=False)


def _area(x: IntArray, y: IntArray) -> float:
    """Return the area under the line through the integer points (x, y), x rising, in exact integer arithmetic."""
    return int(np.dot(np.diff(x), y[1:] + y[:-1])) / 2
