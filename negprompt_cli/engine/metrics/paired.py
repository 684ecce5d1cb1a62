"""Paired comparison of detectors that judged the same images: is one better, or was it the choice of images?

AUROC: the method of DeLong, DeLong and Clarke-Pearson ("Comparing the areas under two or more correlated receiver operating
characteristic curves", Biometrics 1988). An AUROC is a mean over pairs of an ID and an OOD image, so its variance follows
from the share of OOD images below each ID image and the share of ID images above each OOD image. The difference of two means
over several detectors (seeds) and several OOD sets is one more such mean: the same ID images meet every OOD set, and OOD
sets are independent of each other.

FPR95: the paired percentile bootstrap, because a threshold that depends on the images has no such closed form. Every
detector is measured on the same resamples.

The intervals speak of the sampling of test images alone. Leaves out: a correction for many comparisons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from negprompt_cli.engine.metrics.detection import FloatArray, checked_scores

RECALL = 0.95


@dataclass(frozen=True, eq=False)
class Judged:
    """The scores of one detector, higher = more ID: (n,) of the ID images, and (m_s,) of each of S OOD sets."""

    id_scores: FloatArray
    ood_scores: tuple[FloatArray, ...]


@dataclass(frozen=True)
class Difference:
    """A mean of a metric minus the baseline's, as fractions, with its interval.

    Attributes:
        value: the difference on the samples themselves; above 0 the metric is higher than the baseline's.
        low: lower end of the interval.
        high: upper end of the interval.
        p: two-sided p-value of no difference (DeLong's test); None for the bootstrap, and where all images agree.
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
    """Compare every detector with one of them.

    Args:
        detectors: by name one or several judgements of the same images in the same order, such as those of several seeds,
            whose metrics are averaged.
        baseline: the name that the others are compared with.
        generator: the source of randomness of the bootstrap.
        n: number of resamples, at least 1.
        level: confidence level in (0, 1).

    Returns:
        For each other name S + 1 times the differences of `auroc`, `fpr95_id_positive` and `fpr95_ood_positive` from the
        baseline's: on each OOD set, and at last of their means over the sets.

    Raises:
        ValueError: `n` or `level` out of range, scores that are NaN, infinite or missing, other numbers of images, or fewer
            than two images in a set.
    """
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"need n >= 1 and level in (0, 1), got n={n} and level={level}")
    everyone = [one for judged in detectors.values() for one in judged]
    sizes = {(len(one.id_scores), *map(len, one.ood_scores)) for one in everyone}
    if len(sizes) != 1 or min(next(iter(sizes))) < 2 or len(next(iter(sizes))) < 2:
        raise ValueError("all detectors must have judged the same images, two or more of ID and of each OOD set")
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
    """Mean AUROC of `ones` minus that of `others`, over detectors and OOD sets, with DeLong's interval and test.

    Args:
        ones: judgements of the same images in the same order.
        others: the same of the same images.
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
    # Equal detectors leave rounding errors alone.
    error = float(np.sqrt(variance)) if variance > 1e-24 else 0.0
    margin = float(ndtri((1 + level) / 2)) * error
    # Without any variance a test says nothing, unless there is no difference either.
    certain = 1.0 if abs(value) < 1e-12 else None
    p = float(2 * ndtr(-abs(value) / error)) if error else certain
    return Difference(value, value - margin, value + margin, p)


def _on(judged: Judged, sets: Sequence[int]) -> Judged:
    return Judged(judged.id_scores, tuple(judged.ood_scores[s] for s in sets))


def _placements(id_scores: FloatArray, ood_scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(n,) the share of OOD images below each ID image, (m,) the share of ID images above each OOD one; ties are halves."""

    def below(scores: FloatArray, among: FloatArray) -> npt.NDArray[np.float64]:
        ordered = np.sort(among)
        counts = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
        return counts / (2 * len(among))

    return below(id_scores, ood_scores), 1 - below(ood_scores, id_scores)


def _fpr95_samples(
    detectors: Mapping[str, Sequence[Judged]], generator: np.random.Generator, n: int
) -> dict[str, dict[str, FloatArray]]:
    """By convention and name (S, 1 + n) FPR95, means over detectors: of the images themselves, then of resamples."""
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
    """The highest threshold that accepts at least 95 % of the scores."""
    accepted = int(np.searchsorted(np.arange(len(scores) + 1) / len(scores), RECALL))
    place = len(scores) - accepted
    return float(np.partition(scores, place)[place])
