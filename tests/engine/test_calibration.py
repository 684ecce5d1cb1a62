"""Thresholds against the metrics' own, intervals against scipy's Beta quantiles and against simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from negprompt_cli.engine.metrics.calibration import (
    accepting_threshold,
    choose_threshold,
    clopper_pearson,
    images_for_precision,
    images_needed,
)
from negprompt_cli.engine.metrics.detection import acceptance_curve, fpr_at_recall
from negprompt_cli.errors import UsageError

SHARES = st.floats(0.02, 0.98)
SCORES = st.lists(st.integers(-40, 40).map(lambda i: i / 8), min_size=60, max_size=200)


@given(SCORES, SCORES, SHARES)
@settings(max_examples=100)
def test_the_threshold_is_the_one_behind_fpr(id_scores: list[float], ood_scores: list[float], acceptance: float):
    if images_needed(acceptance) > len(id_scores):
        return
    made = choose_threshold(id_scores, acceptance=acceptance)
    accepted = np.asarray(ood_scores) >= made.value
    assert accepted.mean() == fpr_at_recall(acceptance_curve(id_scores, ood_scores), acceptance)
    assert made.value == accepting_threshold(id_scores, acceptance)
    assert made.accepted == (np.asarray(id_scores) >= made.value).sum()


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=60), SHARES)
@settings(max_examples=150)
def test_it_accepts_enough_and_no_higher_threshold_does(scores: list[int], acceptance: float):
    values, threshold = np.asarray(scores), accepting_threshold(scores, acceptance)
    assert (values >= threshold).mean() >= acceptance
    higher = values[values > threshold]
    if len(higher):
        assert (values >= higher.min()).mean() < acceptance


@pytest.mark.parametrize(("m", "n"), [(0, 7), (7, 7), (95, 100), (1, 1), (1805, 1900)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_interval_is_the_quantiles_of_beta(m: int, n: int, confidence: float):
    low, high = clopper_pearson(m, n, confidence=confidence)
    tail = (1 - confidence) / 2
    assert low == pytest.approx(0 if m == 0 else beta.ppf(tail, m, n - m + 1), abs=1e-9)
    assert high == pytest.approx(1 if m == n else beta.ppf(1 - tail, m + 1, n - m), abs=1e-9)


def test_the_interval_holds_the_true_acceptance_as_often_as_it_says():
    # Uniform scores: a threshold t accepts exactly the share 1 - t of all images there could be.
    generator = np.random.default_rng(0)
    drawn = [choose_threshold(generator.random(200), acceptance=0.9, confidence=0.9) for _ in range(600)]
    held = np.mean([made.low <= 1 - made.value <= made.high for made in drawn])
    assert 0.88 <= held <= 0.96


@pytest.mark.parametrize("acceptance", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_images_needed_is_the_first_number_at_which_one_may_be_rejected(acceptance: float):
    n = images_needed(acceptance)
    assert (n - 1) / n >= acceptance
    assert all((k - 1) / k < acceptance for k in range(2, n))
    assert choose_threshold(np.arange(n), acceptance=acceptance).value == 1


def test_enough_images_keep_the_interval_from_twice_the_rejections():
    n = images_for_precision(0.95)
    assert clopper_pearson(round(0.95 * n), n)[0] >= 0.9 > clopper_pearson(19, 20)[0]


def test_too_few_images_are_refused_with_the_number_that_would_do():
    with pytest.raises(UsageError, match="at least 20 are needed"):
        choose_threshold(np.arange(19))
    with pytest.raises(UsageError, match=r"With 19 the highest possible acceptance is 0\.9"):
        choose_threshold(np.arange(19))


@pytest.mark.parametrize("acceptance", [0.0, 1.0, 95.0, -0.5, float("nan")])
def test_an_acceptance_is_a_share(acceptance: float):
    with pytest.raises(UsageError, match="between 0 and 1"):
        choose_threshold(np.arange(100), acceptance=acceptance)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        choose_threshold([1.0] * 50 + [float("nan")])
    with pytest.raises(UsageError, match="confidence"):
        choose_threshold(np.arange(100), confidence=1.0)
