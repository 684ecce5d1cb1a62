"""Choose a threshold on ID scores from held-out ID images, with a confidence interval for its acceptance.

The threshold is the highest one that accepts at least the requested share of the n held-out images; FPR at that recall
uses the same threshold (`detection.fpr_at_recall`). An image is accepted as ID if its score is at least the threshold.
The share of new ID images that it accepts is estimated by the share m / n of the held-out images, with the exact binomial
interval of Clopper and Pearson, Biometrika 1934. For scores without ties the true share has the distribution
Beta(m, n - m + 1): the lower end of the interval is a quantile of that distribution, and the upper end is conservative.

No threshold here uses OOD images. `conformal` has thresholds by class.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negprompt_cli.errors import UsageError


@dataclass(frozen=True)
class Threshold:
    """A calibrated threshold.

    Attributes:
        value: images with at least this score are accepted as ID.
        acceptance: requested share of ID images to accept, in (0, 1).
        accepted: number of held-out images that the threshold accepts.
        images: number n of held-out images.
        low, high: interval of the share of new ID images that the threshold accepts.
        confidence: confidence of that interval, in (0, 1).
    """

    value: float
    acceptance: float
    accepted: int
    images: int
    low: float
    high: float
    confidence: float


def choose_threshold(scores: npt.ArrayLike, *, acceptance: float = 0.95, confidence: float = 0.95) -> Threshold:
    """Choose the highest threshold that accepts at least `acceptance` of held-out ID images.

    Args:
        scores: (n,) scores of held-out ID images, higher = more ID.
        acceptance: share of ID images to accept, in (0, 1).
        confidence: confidence of the interval, in (0, 1).

    Raises:
        UsageError: n is below `images_needed`, or a share is outside (0, 1).
        ValueError: scores are not finite or not (n,).
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite and of shape (n,), got shape {values.shape}")
    if not 0 < confidence < 1:
        raise UsageError(f"A confidence of {confidence:g} is not between 0 and 1, for example 0.95.")
    needed = images_needed(acceptance)
    n = len(values)
    if n < needed:
        raise UsageError(
            f"{n} held-out ID images are too few for a threshold with acceptance {acceptance:.4g}: "
            f"at least {needed} are needed"
            + (f". With {n} the highest possible acceptance is {highest_acceptance(n):g}." if n >= 2 else ".")
        )
    value = accepting_threshold(values, acceptance)
    accepted = int((values >= value).sum())
    low, high = clopper_pearson(accepted, n, confidence=confidence)
    return Threshold(value, acceptance, accepted, n, low, high, confidence)


def accepting_threshold(scores: npt.ArrayLike, acceptance: float) -> float:
    """Return the highest threshold that accepts at least the share `acceptance`, in (0, 1), of scores (n,), n >= 1."""
    values = np.sort(np.asarray(scores, dtype=np.float64))
    return float(values[_most_rejected(len(values), acceptance)])


def images_needed(acceptance: float) -> int:
    """Return the smallest number of held-out images of which a threshold for `acceptance` may reject one.

    It is 1 / (1 - acceptance), rounded up.

    Raises:
        UsageError: `acceptance` is not in (0, 1).
    """
    if not 0 < acceptance < 1:
        raise UsageError(f"An acceptance of {acceptance:g} is not between 0 and 1, for example 0.95.")
    n = max(1, math.floor(1 / (1 - acceptance)) - 1)
    while _most_rejected(n, acceptance) < 1:
        n += 1
    return n


def images_for_precision(acceptance: float, *, confidence: float = 0.95) -> int:
    """Return how many held-out images exclude, by the interval, rejecting twice as many ID images as requested.

    Args:
        acceptance: share a of ID images to accept, in (0, 1).
        confidence: confidence of the interval, in (0, 1).

    Returns:
        The lowest multiple of `images_needed` for which the interval's lower end is at least max(0, 2 a - 1).

    Raises:
        UsageError: `acceptance` is not in (0, 1).
    """
    n, floor = images_needed(acceptance), max(0.0, 2 * acceptance - 1)
    step = n
    while clopper_pearson(n - _most_rejected(n, acceptance), n, confidence=confidence)[0] < floor:
        n += step
    return n


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a binomial share (Clopper and Pearson, 1934).

    Args:
        successes: m, from 0 to n.
        trials: n >= 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end as fractions. The lower end is 0 if m = 0, the upper end is 1 if m = n.
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="exact")
    return float(interval.low), float(interval.high)


def _most_rejected(n: int, acceptance: float) -> int:
    """Return how many of n images may be below the threshold: the highest r with (n - r) / n >= acceptance."""
    r = math.floor(n * (1 - acceptance)) + 1
    # Recalls are computed and compared with the same expression, so both round in the same way.
    while (n - r) / n < acceptance:
        r -= 1
    return r


def highest_acceptance(n: int) -> float:
    """Return the highest acceptance, in steps of 0.05, for which n images are enough."""
    return max((share / 20 for share in range(1, 20) if images_needed(share / 20) <= n), default=0.05)
