"""Paired comparison against slow references: DeLong's sums over all pairs of images, and resamples one by one."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from negprompt_cli.engine.metrics.detection import evaluate_scores
from negprompt_cli.engine.metrics.paired import Judged, delong_difference, paired_differences


def _judged(seed: int, *, shift: float = 1.0, decimals: int = 1, sizes: tuple[int, ...] = (17, 12, 9)) -> Judged:
    """Scores with ties that share their noise with other seeds, as detectors of the same images do."""
    shared, own = np.random.default_rng(99), np.random.default_rng(seed)
    parts = [shared.normal(size=n) + own.normal(size=n) for n in sizes]
    return Judged((parts[0] + shift).round(decimals), tuple(part.round(decimals) for part in parts[1:]))


def _psi(id_score: float, ood_score: float) -> float:
    return 0.5 if id_score == ood_score else float(id_score > ood_score)


def _slow_covariance(judged: list[Judged], s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROCs and DeLong's S10 and S01 of all detectors on OOD set s, by loops over pairs of images."""
    above = np.array([[np.mean([_psi(x, y) for y in j.ood_scores[s]]) for x in j.id_scores] for j in judged])
    below = np.array([[np.mean([_psi(x, y) for x in j.id_scores]) for y in j.ood_scores[s]] for j in judged])
    areas = above.mean(axis=1)
    s10, s01 = np.zeros((len(judged),) * 2), np.zeros((len(judged),) * 2)
    for a in range(len(judged)):
        for b in range(len(judged)):
            n, m = above.shape[1], below.shape[1]
            s10[a, b] = sum((above[a, i] - areas[a]) * (above[b, i] - areas[b]) for i in range(n)) / (n - 1)
            s01[a, b] = sum((below[a, i] - areas[a]) * (below[b, i] - areas[b]) for i in range(m)) / (m - 1)
    return areas, s10, s01


def test_one_set_and_one_detector_each_is_delongs_test() -> None:
    one, other = (Judged(j.id_scores, j.ood_scores[:1]) for j in (_judged(1), _judged(2, shift=0.3)))
    found = delong_difference([one], [other], level=0.9)
    areas, s10, s01 = _slow_covariance([one, other], 0)
    contrast = np.array([1.0, -1.0])
    error = np.sqrt(contrast @ (s10 / len(one.id_scores) + s01 / len(one.ood_scores[0])) @ contrast)
    assert found.value == pytest.approx(areas[0] - areas[1])
    labels = [1] * len(one.id_scores) + [0] * len(one.ood_scores[0])
    assert areas[0] == pytest.approx(roc_auc_score(labels, np.concatenate([one.id_scores, one.ood_scores[0]])))
    low, high = stats.norm.interval(0.9, loc=found.value, scale=error)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.value) / error))


def test_means_over_seeds_and_sets_share_their_images() -> None:
    ones, others = [_judged(1), _judged(2), _judged(3)], [_judged(4, shift=0.2), _judged(5, shift=0.2)]
    found = delong_difference(ones, others)
    contrast = np.array([1 / 3] * 3 + [-1 / 2] * 2)
    everyone = [*ones, *others]
    # The same ID images meet both sets: the covariance between sets is that of the ID images.
    above = np.array(
        [
            np.mean([[np.mean([_psi(x, y) for y in scores]) for x in j.id_scores] for scores in j.ood_scores], axis=0)
            for j in everyone
        ]
    )
    variance = contrast @ (np.cov(above) / above.shape[1]) @ contrast
    value = 0.0
    for s in range(2):
        areas, _, s01 = _slow_covariance(everyone, s)
        variance += contrast @ (s01 / len(ones[0].ood_scores[s])) @ contrast / 4
        value += contrast @ areas / 2
    margin = stats.norm.ppf(0.975) * np.sqrt(variance)
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == (pytest.approx(value - margin), pytest.approx(value + margin))


def test_fpr95_is_compared_on_the_same_resamples() -> None:
    detectors = {"base": [_judged(1, shift=0.5)], "better": [_judged(2, shift=2.0), _judged(3, shift=2.0)]}
    found = paired_differences(detectors, "base", generator=np.random.default_rng(7), n=60, level=0.8)
    assert list(found) == ["better"]
    generator = np.random.default_rng(7)
    gaps: dict[str, list[float]] = {"fpr95_id_positive": [], "fpr95_ood_positive": []}
    sizes = (17, 12, 9)
    for i in range(61):
        drawn = [np.arange(k) if i == 0 else generator.integers(k, size=k) for k in sizes]
        for metric, values in gaps.items():
            means = {
                name: np.mean(
                    [
                        getattr(evaluate_scores(j.id_scores[drawn[0]], j.ood_scores[s][drawn[s + 1]]), metric)
                        for j in judged
                        for s in range(2)
                    ]
                )
                for name, judged in detectors.items()
            }
            values.append(float(means["better"] - means["base"]))
    for metric, values in gaps.items():
        mine = found["better"][-1][metric]
        assert mine.value == pytest.approx(values[0])
        assert (mine.low, mine.high) == tuple(pytest.approx(q) for q in np.quantile(values[1:], [0.1, 0.9]))
        assert mine.p is None
    # One set of them alone.
    alone = {name: [Judged(j.id_scores, j.ood_scores[1:]) for j in judged] for name, judged in detectors.items()}
    auroc = delong_difference(alone["better"], alone["base"], level=0.8)
    assert found["better"][1]["auroc"] == auroc


def test_equal_detectors_do_not_differ_and_certainty_has_no_p() -> None:
    one = _judged(1)
    same = paired_differences({"a": [one], "b": [one, one]}, "a", generator=np.random.default_rng(0), n=5)["b"]
    for differences in same:
        assert differences["auroc"].p == 1.0
        assert all(d.value == pytest.approx(0) and d.low == pytest.approx(0) == d.high for d in differences.values())
    perfect, constant = Judged(np.ones(3), (np.zeros(3),)), Judged(np.ones(3), (np.ones(3),))
    sure = delong_difference([perfect], [constant])
    assert (sure.value, sure.p) == (0.5, None)


def test_what_cannot_be_paired_is_refused() -> None:
    one, generator = _judged(1), np.random.default_rng(0)
    with pytest.raises(ValueError, match="same images"):
        paired_differences({"a": [one], "b": [_judged(1, sizes=(17, 12, 8))]}, "a", generator=generator)
    with pytest.raises(ValueError, match="at least two"):
        paired_differences({"a": [_judged(1, sizes=(17, 1))]}, "a", generator=generator)
    with pytest.raises(ValueError, match="NaN"):
        paired_differences({"a": [Judged(np.array([1.0, np.nan]), one.ood_scores)]}, "a", generator=generator)
    with pytest.raises(ValueError, match="level"):
        paired_differences({"a": [one]}, "a", generator=generator, level=1.0)
