"""Paired comparison of detectors on the same images: is the difference larger than the choice of images explains?

AUROC uses the method of DeLong, DeLong and Clarke-Pearson ("Comparing the areas under two or more correlated receiver
operating characteristic curves", Biometrics 1988). An AUROC is a mean over pairs of an ID and an OOD image. Its variance
follows from the share of OOD images below each ID image and the share of ID images above each OOD image. The difference
of two means over detectors (seeds) and OOD sets is such a mean too: all OOD sets are paired with the same ID images, and
OOD sets are independent of each other.

FPR95 uses the paired percentile bootstrap, because its threshold depends on the images and there is no closed form. Every
detector is measured on the same resamples.

The intervals describe the sampling of test images only. There is no correction for multiple comparisons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negprompt_cli.engine.metrics.detection import FloatArray, checked_scores

RECALL = 0.95


@dataclass(frozen=True, eq=False)
class Judged:
    """The scores of one detector, higher = more ID: (n,) of the ID images, and (m_s,) of each OOD set s of S."""

    id_scores: FloatArray
    ood_scores: tuple[FloatArray, ...]


@dataclass(frozen=True)
class Difference:
    """The difference between a detector's mean metric and the baseline's, as fractions, with its interval.

    Attributes:
        value: the difference on the samples themselves; above 0 the metric is higher than the baseline's.
        low: lower end of the interval.
        high: upper end of the interval.
        p: two-sided p-value of DeLong's test of no difference; None for the bootstrap, and if the variance is zero but the
            difference is not.
    """

    value: float
    low: float
    high: float
    p: float | None = None


def paired_differences(
    detectors: Mapping[str, Sequence[Judged]],
    baseline: str,
    *,
    generator: np.random.Generator,
    n: int = 1000,
    level: float = 0.95,
) -> dict[str, list[dict[str, Difference]]]:
    """Compare every detector with the baseline.

    Args:
        detectors: for each name one or several judgements of the same images in the same order, such as one per seed.
            Their metrics are averaged.
        baseline: name of the detector that the others are compared with.
        generator: source of randomness of the bootstrap.
        n: number of resamples, at least 1.
        level: confidence level in (0, 1).

    Returns:
        For each other name a list of S + 1 entries, one for each OOD set and a last one for the mean over the sets. Each
        entry has the differences of `auroc`, `fpr95_id_positive` and `fpr95_ood_positive` from the baseline's.

    Raises:
        ValueError: `n` or `level` out of range; scores that are NaN, infinite or missing; different numbers of images; no
            OOD set; or fewer than two images in a set.
    """
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and level in (0, 1), got n={n} and level={level}")
    everyone = [one for judged in detectors.values() for one in judged]
    sizes = {(len(one.id_scores), *map(len, one.ood_scores)) for one in everyone}
    if len(sizes) != 1 or min(next(iter(sizes))) < 2 or len(next(iter(sizes))) < 2:
        raise ValueError("all detectors must have judged the same images, at least two of ID and of each OOD set")
    for one in everyone:
        checked_scores(one.id_scores, "ID")
        for scores in one.ood_scores:
            checked_scores(scores, "OOD")
    samples = _fpr95_samples(detectors, generator, n)
    tails = [(1 - level) / 2, (1 + level) / 2]
    sets = range(len(everyone[0].ood_scores))
    found: dict[str, list[dict[str, Difference]]] = {}
    for name in detectors:
        if name == baseline:
            continue
        found[name] = []
        for chosen in (*([s] for s in sets), list(sets)):
            pair = [[_on(one, chosen) for one in detectors[which]] for which in (name, baseline)]
            differences = {"auroc": delong_difference(*pair, level=level)}
            for metric, values in samples.items():
                gaps = (values[name] - values[baseline])[chosen].mean(axis=0)
                low, high = np.quantile(gaps[1:], tails)
                differences[metric] = Difference(float(gaps[0]), float(low), float(high))
            found[name].append(differences)
    return found


def delong_difference(ones: Sequence[Judged], others: Sequence[Judged], *, level: float = 0.95) -> Difference:
    """Return the mean AUROC of `ones` minus that of `others`, over detectors and OOD sets, with DeLong's interval and test.

    Args:
        ones: judgements of the same images in the same order.
        others: judgements of the same images in that order, to compare with.
        level: confidence level in (0, 1).
    """
    first = ones[0]
    of_id = np.zeros(len(first.id_scores))
    of_ood = [np.zeros(len(scores)) for scores in first.ood_scores]
    weighted = [(one, 1 / len(ones)) for one in ones] + [(other, -1 / len(others)) for other in others]
    for judged, weight in weighted:
        for s, scores in enumerate(judged.ood_scores):
            above, below = _placements(judged.id_scores, scores)
            of_id += weight / len(of_ood) * above
            of_ood[s] += weight / len(of_ood) * below
    value = float(of_id.mean())
    variance = of_id.var(ddof=1) / len(of_id) + sum(part.var(ddof=1) / len(part) for part in of_ood)
    # The variance of equal detectors is rounding error only.
    error = float(np.sqrt(variance)) if variance > 1e-24 else 0.0
    from scipy.special import ndtr, ndtri  # half of what a command without intervals would import

    margin = float(ndtri((1 + level) / 2)) * error
    # Without variance the test is undefined, unless the difference is zero too.
    certain = 1.0 if abs(value) < 1e-12 else None
    p = float(2 * ndtr(-abs(value) / error)) if error else certain
    return Difference(value, value - margin, value + margin, p)


def _on(judged: Judged, sets: Sequence[int]) -> Judged:
    return Judged(judged.id_scores, tuple(judged.ood_scores[s] for s in sets))


def _placements(id_scores: FloatArray, ood_scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return (n,) the share of OOD images below each ID image and (m,) the share of ID images above each OOD image.

    A tie counts one half.
    """

    def below(scores: FloatArray, among: FloatArray) -> npt.NDArray[np.float64]:
        ordered = np.sort(among)
        counts = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
        return counts / (2 * len(among))

    return below(id_scores, ood_scores), 1 - below(ood_scores, id_scores)


def _fpr95_samples(
    detectors: Mapping[str, Sequence[Judged]], generator: np.random.Generator, n: int
) -> dict[str, dict[str, FloatArray]]:
    """Return (S, 1 + n) mean FPR95 by convention and name; column 0 is of the images themselves, the others of resamples."""
    first = next(iter(detectors.values()))[0]
    metrics = ("fpr95_id_positive", "fpr95_ood_positive")
    samples = {metric: {name: np.zeros((len(first.ood_scores), 1 + n)) for name in detectors} for metric in metrics}
    for i in range(1 + n):
        drawn = [
            np.arange(len(s)) if i == 0 else _draw(generator, len(s)) for s in (first.id_scores, *first.ood_scores)
        ]
        for name, judged in detectors.items():
            for one in judged:
                own = one.id_scores[drawn[0]]
                threshold = _accepting(own)
                for s, (scores, chosen) in enumerate(zip(one.ood_scores, drawn[1:], strict=True)):
                    others = scores[chosen]
                    samples[metrics[0]][name][s, i] += np.mean(others >= threshold) / len(judged)
                    samples[metrics[1]][name][s, i] += np.mean(-own >= _accepting(-others)) / len(judged)
    return samples


def _draw(generator: np.random.Generator, size: int) -> npt.NDArray[np.int64]:
    return generator.integers(size, size=size)


def _accepting(scores: FloatArray) -> float:
    """Return the highest threshold that accepts at least 95 % of the scores."""
    accepted = int(np.searchsorted(np.arange(len(scores) + 1) / len(scores), RECALL))
    place = len(scores) - accepted
    return float(np.partition(scores, place)[place])
