"""Conformal p-values of ID scores, selections with a controlled false discovery rate, and tests of a batch of images.

All functions compare new scores with the scores of n held-out ID images (the calibration scores). The only assumption is
that new ID images are exchangeable with these. The following then holds for every model and every score:

    p_values          P(p <= t) <= t for an ID image (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World,
                      2005)
    select_ood        the expected share of ID images among the selected ones is at most the given rate (Benjamini and
                      Hochberg, JRSS B 1995; for conformal p-values: Bates, Candes, Lei, Romano and Sesia, Annals of
                      Statistics 2023)
    class_thresholds  each predicted class with enough calibration images has its own threshold (Mondrian conformal
                      prediction, Vovk et al., 2005)
    batch_verdict     two tests decide whether a batch has shifted; an unshifted batch is called shifted at a known rate

The scores are in `engine.scores`; the threshold for all classes is in `calibration`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negprompt_cli.engine.metrics.calibration import choose_threshold, images_needed
from negprompt_cli.errors import UsageError

Floats = npt.NDArray[np.float64]


def p_values(scores: npt.ArrayLike, calibration: npt.ArrayLike) -> Floats:
    """Return the conformal p-value of each image: the share of images with at most its score.

    p = (1 + #{calibration scores <= score}) / (n + 1). The image itself counts once and ties count, so that
    P(p <= t) <= t for every ID image and every t. A small p-value means that few ID images have such a low score.

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
    """Return the largest p-value that may be called OOD at the false discovery rate `rate` (Benjamini and Hochberg, 1995).

    With p_(1) <= ... <= p_(m), it is the largest p_(k) with p_(k) <= rate * k / m. If all images with at most this p-value
    are called OOD, the expected share of ID images among them is at most `rate`.

    Args:
        p: (m,) conformal p-values of all images that are judged together.
        rate: false discovery rate, in (0, 1).

    Returns:
        The largest selected p-value, or 0 if no image is selected.

    Raises:
        UsageError: `rate` is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise UsageError(f"A false discovery rate of {rate:g} is not between 0 and 1, for example 0.05.")
    ordered = np.sort(np.asarray(p, dtype=np.float64))
    passed = ordered <= rate * np.arange(1, len(ordered) + 1) / max(1, len(ordered))
    return float(ordered[passed][-1]) if passed.any() else 0.0


def class_thresholds(
    scores: npt.ArrayLike, predictions: npt.ArrayLike, *, acceptance: float, confidence: float = 0.95
) -> dict[int, float]:
    """Return a threshold for each predicted class that has enough calibration images.

    One threshold for all classes may reject most images of a difficult class. With its own threshold each predicted class
    accepts at least the share `acceptance` of its calibration images. Classes with fewer images than
    `images_needed(acceptance)` have no entry; the common threshold applies to them.

    Args:
        scores: (n,) ID scores of held-out ID images.
        predictions: (n,) integers, their predicted classes.
        acceptance: share of ID images to accept, in (0, 1).
        confidence: passed to `choose_threshold`.

    Returns:
        Thresholds by predicted class.

    Raises:
        UsageError: `acceptance` or `confidence` is not in (0, 1).
    """
    values, classes = _finite(scores), np.asarray(predictions)
    needed = images_needed(acceptance)
    return {
        int(label): choose_threshold(values[classes == label], acceptance=acceptance, confidence=confidence).value
        for label in np.unique(classes)
        if int((classes == label).sum()) >= needed
    }


def thresholds_of(predictions: npt.ArrayLike, common: float, by_class: Mapping[int, float]) -> Floats:
    """Return (m,): the threshold of each image's predicted class, or `common` if that class has none."""
    return np.array([by_class.get(int(label), common) for label in np.asarray(predictions)], dtype=np.float64)


@dataclass(frozen=True)
class BatchVerdict:
    """Whether a batch of m images looks like the n calibration images.

    Attributes:
        images: m, the number of tested images.
        rejected: number of tested images below the threshold.
        expected: share of ID images that the threshold rejects, estimated from the calibration images.
        rejected_p: probability that at least `rejected` of m ID images are rejected; it includes the uncertainty of the
            threshold.
        scores_p: two-sided p-value of the Kolmogorov-Smirnov test that both sets of scores have the same distribution.
        level: share of unshifted batches that may be called shifted, in (0, 1).
        shifted: whether either p-value is at most level / 2 (Bonferroni correction for two tests).
    """

    images: int
    rejected: int
    expected: float
    rejected_p: float
    scores_p: float
    level: float
    shifted: bool

    def sentence(self) -> str:
        """The verdict as one sentence."""
        return (
            f"The images as a whole {'HAVE SHIFTED' if self.shifted else 'have not shifted'}: {self.rejected} of "
            f"{self.images} are rejected, where {100 * self.expected:.1f} % of ID images are (p = {self.rejected_p:.2g}). "
            f"Their scores, compared with those of held-out ID images, give p = {self.scores_p:.2g}."
        )


def batch_verdict(
    scores: npt.ArrayLike, calibration: npt.ArrayLike, threshold: float, *, level: float = 0.05
) -> BatchVerdict:
    """Test whether a batch of images has shifted away from the calibration images.

    There are two tests, each at level / 2. The first asks whether more images are rejected than expected for ID images. The
    rejected share is only estimated from n images, so the number of rejected images among m ID images is not binomial. With
    r calibration scores below the threshold it is BetaBinomial(m, r + 1, n - r); this is exact for scores without ties if
    the threshold is one of the calibration scores. The second is the two-sample Kolmogorov-Smirnov test on the scores. It
    also detects shifts that reject no image, such as scores that became too high.

    Args:
        scores: (m,) ID scores of the batch.
        calibration: (n,) scores of held-out ID images.
        threshold: images that score below it are rejected.
        level: share of unshifted batches that may be called shifted, in (0, 1).

    Raises:
        UsageError: there are no images, or `level` is not in (0, 1).
        ValueError: a score is not finite, or there are no calibration scores.
    """
    from scipy.stats import betabinom, ks_2samp

    if not 0 < level < 1:
        raise UsageError(f"A level of {level:g} is not between 0 and 1, for example 0.05.")
    new, known = _finite(scores), _sorted(calibration)
    if not len(new):
        raise UsageError("There are no images to test.")
    below, rejected = int((known < threshold).sum()), int((new < threshold).sum())
    # If the threshold is above every calibration score, the second parameter would be 0.
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
