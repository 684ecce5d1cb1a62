"""A threshold on ID scores, chosen on held-out ID images alone, with what such a choice can promise.

The threshold is the highest that accepts at least the asked share of the n held-out images, the very one behind FPR at
that recall (`metrics.fpr_at_recall_id_positive`). An image is ID where its score is at or above it. The share of new ID
images it accepts is estimated by the share m / n of the held-out ones, with the exact binomial interval of Clopper and
Pearson, Biometrika 1934. For scores without ties the true share is distributed as Beta(m, n - m + 1): the interval's lower
end is that distribution's own quantile, its upper end is on the safe side.

Leaves out: OOD images, which no threshold here ever sees, and thresholds by class.
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
        value: images whose score is at least this are accepted as ID.
        acceptance: share of ID images that was asked for, in (0, 1).
        accepted: how many held-out images it accepts.
        images: number n of held-out images.
        low, high: interval of the share of new ID images it accepts.
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
        acceptance: in (0, 1).
        confidence: of the interval, in (0, 1).

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
            f"{n} held-out ID images are too few for a threshold that accepts a share of {acceptance:.4g} of ID images: "
            f"at least {needed} are needed"
            + (f". With {n} the highest possible acceptance is {_reachable(n):g}." if n >= 2 else ".")
        )
    value = accepting_threshold(values, acceptance)
    accepted = int((values >= value).sum())
    low, high = clopper_pearson(accepted, n, confidence=confidence)
    return Threshold(value, acceptance, accepted, n, low, high, confidence)


def accepting_threshold(scores: npt.ArrayLike, acceptance: float) -> float:
    """The highest threshold that accepts at least a share of scores (n,), n >= 1; `acceptance` in (0, 1)."""
    values = np.sort(np.asarray(scores, dtype=np.float64))
    return float(values[_most_rejected(len(values), acceptance)])


def images_needed(acceptance: float) -> int:
    """Fewest held-out images at which a threshold for `acceptance` may reject any of them: 1 / (1 - acceptance).

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
    """Held-out images whose interval excludes rejecting twice as many ID images as was asked for.

    Args:
        acceptance: share a of ID images to accept, in (0, 1).
        confidence: of the interval.

    Returns:
        The lowest multiple of `images_needed` at which the interval's lower end is at least 2 a - 1, or 0 if that is
        negative.
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
        Lower and upper end, fractions; 0 for the lower where m = 0, 1 for the upper where m = n.
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="exact")
    return float(interval.low), float(interval.high)


def _most_rejected(n: int, acceptance: float) -> int:
    """How many of n images may fall below the threshold: the most r with (n - r) / n >= acceptance."""
    r = math.floor(n * (1 - acceptance)) + 1
    # The comparison is the one that recalls are compared with, so that rounding falls the same way.
    while (n - r) / n < acceptance:
        r -= 1
    return r


def _reachable(n: int) -> float:
    """The highest acceptance in steps of 0.05 that n images do for."""
    return max((share / 20 for share in range(1, 20) if images_needed(share / 20) <= n), default=0.05)
