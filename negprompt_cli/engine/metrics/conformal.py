"""Conformal p-values of ID scores, selections with a controlled false discovery rate, and tests of a whole delivery.

All of it compares new scores with the scores of n held-out ID images (the calibration scores) and assumes one thing only:
an ID image of the future is exchangeable with them. Whatever the model and the score are, these statements then hold.

    p_values          P(p <= t) <= t for an ID image (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World,
                      2005)
    select_ood        the expected share of ID images among the selected is at most the asked rate (Benjamini and Hochberg,
                      JRSS B 1995, on conformal p-values: Bates, Candes, Lei, Romano and Sesia, Annals of Statistics 2023)
    class_thresholds  thresholds by predicted class, where a class has enough calibration images (Mondrian conformal
                      prediction, Vovk et al., 2005)
    batch_verdict     has this delivery shifted?

Leaves out: which score is compared (see `engine.scores`) and the one threshold for all classes (see `calibration`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negprompt_cli.engine.metrics.calibration import choose_threshold, images_needed
from negprompt_cli.errors import UsageError

Floats = npt.NDArray[np.float64]


def p_values(scores: npt.ArrayLike, calibration: npt.ArrayLike) -> Floats:
    """Conformal p-value of each image: the share of calibration images that are at most as ID as the image.

    p = (1 + #{calibration scores <= score}) / (n + 1); the image itself counts once, and ties count as "at most as ID", so
    that an ID image has P(p <= t) <= t for every t. A small value says: few ID images look this foreign.

    Args:
        scores: (m,) ID scores, higher = more ID.
        calibration: (n,) scores of held-out ID images, in any order.

    Returns:
        (m,) p-values in [1 / (n + 1), 1].

    Raises:
        ValueError: there are no calibration scores, or a score is not finite.
    """
    known, new = _sorted(calibration), _finite(scores)
    return (1 + np.searchsorted(known, new, side="right")) / (len(known) + 1)


def select_ood(p: npt.ArrayLike, rate: float) -> float:
    """The largest p-value that may be called OOD at a false discovery rate of `rate` (Benjamini and Hochberg, 1995).

    With p_(1) <= ... <= p_(m), it is the largest p_(k) with p_(k) <= rate * k / m. Calling every image with a p-value of at
    most this OOD keeps the expected share of ID images among those called OOD at or below `rate`.

    Args:
        p: (m,) conformal p-values of all images that are judged together.
        rate: false discovery rate, in (0, 1).

    Returns:
        The largest p-value selected; 0 where none is.

    Raises:
        UsageError: `rate` is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise UsageError(f"A false discovery rate of {rate:g} is not between 0 and 1, for example 0.05.")
    ordered = np.sort(np.asarray(p, dtype=np.float64))
    passed = ordered <= rate * np.arange(1, len(ordered) + 1) / max(1, len(ordered))
    return float(ordered[passed][-1]) if passed.any() else 0.0


def images_for_selection(images: int, rate: float) -> int:
    """Calibration images with which the single most foreign of `images` images could be selected at `rate`.

    The smallest p-value is 1 / (n + 1), and one image alone is selected where it is at most rate / m.

    Args:
        images: m, how many images are judged together.
        rate: false discovery rate, in (0, 1).
    """
    n = int(np.ceil(images / rate)) - 1
    # Rounding of the division must not promise one image too few.
    while 1 / (n + 1) > rate / images:
        n += 1
    return n


def class_thresholds(
    scores: npt.ArrayLike, predictions: npt.ArrayLike, *, acceptance: float, confidence: float = 0.95
) -> dict[int, float]:
    """Thresholds for the predicted classes that have enough calibration images of their own.

    Within each predicted class at least `acceptance` of the ID images is then accepted, where one threshold for all classes
    may reject most images of a difficult class. Classes with fewer images than `images_needed(acceptance)` have no entry:
    they keep the common threshold.

    Args:
        scores: (n,) ID scores of held-out ID images.
        predictions: (n,) their predicted classes, integers.
        acceptance: share of ID images to accept, in (0, 1).
        confidence: passed to `choose_threshold`.

    Returns:
        Threshold by predicted class.
    """
    values, classes = _finite(scores), np.asarray(predictions)
    needed = images_needed(acceptance)
    return {
        int(label): choose_threshold(values[classes == label], acceptance=acceptance, confidence=confidence).value
        for label in np.unique(classes)
        if int((classes == label).sum()) >= needed
    }


def thresholds_of(predictions: npt.ArrayLike, common: float, by_class: Mapping[int, float]) -> Floats:
    """(m,) the threshold of each image: that of its predicted class where there is one, else the common one."""
    return np.array([by_class.get(int(label), common) for label in np.asarray(predictions)], dtype=np.float64)


@dataclass(frozen=True)
class BatchVerdict:
    """Whether a delivery of m images looks like the n calibration images.

    Attributes:
        images: m, how many images were tested.
        rejected: how many of them are below the threshold.
        expected: share of ID images that the threshold rejects, estimated from the calibration images.
        rejected_p: probability that at least so many of m ID images are rejected, the uncertainty of the threshold included.
        scores_p: two-sided p-value of the Kolmogorov-Smirnov test that the scores have one distribution.
        level: share of unshifted deliveries that may be called shifted, in (0, 1).
        shifted: whether either p-value is at most level / 2 (Bonferroni, since there are two tests).
    """

    images: int
    rejected: int
    expected: float
    rejected_p: float
    scores_p: float
    level: float
    shifted: bool

    def sentence(self) -> str:
        """The verdict for people."""
        return (
            f"The images as a whole {'HAVE SHIFTED' if self.shifted else 'have not shifted'}: {self.rejected} of "
            f"{self.images} are rejected where {100 * self.expected:.1f} % of ID images are (p = {self.rejected_p:.2g}); "
            f"their scores against those of held-out ID images: p = {self.scores_p:.2g}."
        )


def batch_verdict(
    scores: npt.ArrayLike, calibration: npt.ArrayLike, threshold: float, *, level: float = 0.05
) -> BatchVerdict:
    """Test whether a delivery has shifted away from the calibration images.

    Two tests, each at level / 2. The first asks whether more images are rejected than ID images would be. The share that a
    threshold rejects is itself only known from n images, so the count of m ID images is beta-binomial, not binomial: with r
    calibration scores below the threshold it is BetaBinomial(m, r + 1, n - r) (exact for scores without ties and a threshold
    that is one of the calibration scores). The second is the two-sample Kolmogorov-Smirnov test on the scores, which also
    sees shifts that reject nobody, such as scores that became too high.

    Args:
        scores: (m,) ID scores of the delivery.
        calibration: (n,) scores of held-out ID images.
        threshold: images below are rejected.
        level: share of unshifted deliveries that may be called shifted, in (0, 1).

    Raises:
        UsageError: there are no images, or `level` is not in (0, 1).
        ValueError: a score is not finite.
    """
    from scipy.stats import betabinom, ks_2samp

    if not 0 < level < 1:
        raise UsageError(f"A level of {level:g} is not between 0 and 1, for example 0.05.")
    new, known = _finite(scores), _sorted(calibration)
    if not len(new):
        raise UsageError("There are no images to test.")
    below, rejected = int((known < threshold).sum()), int((new < threshold).sum())
    # Where the threshold is above every calibration score the second parameter would be 0.
    rejected_p = float(betabinom.sf(rejected - 1, len(new), below + 1, max(1, len(known) - below)))
    scores_p = float(ks_2samp(new, known).pvalue)
    return BatchVerdict(
        images=len(new),
        rejected=rejected,
        expected=below / len(known),
        rejected_p=rejected_p,
        scores_p=scores_p,
        level=level,
        shifted=min(rejected_p, scores_p) <= level / 2,
    )


def _finite(scores: npt.ArrayLike) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite and of shape (n,), got shape {values.shape}")
    return values


def _sorted(calibration: npt.ArrayLike) -> Floats:
    values = np.sort(_finite(calibration))
    if not len(values):
        raise ValueError("there are no calibration scores")
    return values
