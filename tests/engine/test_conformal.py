"""Conformal p-values, selection and tests of a delivery: against loops, scipy, and the rates they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from negprompt_cli.engine.metrics.calibration import choose_threshold
from negprompt_cli.engine.metrics.conformal import (
    batch_verdict,
    class_thresholds,
    p_values,
    select_ood,
    thresholds_of,
)
from negprompt_cli.errors import UsageError

_SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(_SCORES, _SCORES)
def test_p_values_count_calibration_scores_one_by_one(scores, calibration):
    expected = [(1 + sum(c <= s for c in calibration)) / (len(calibration) + 1) for s in scores]
    assert p_values(scores, calibration).tolist() == expected


@given(_SCORES, _SCORES, st.sampled_from([0.05, 0.1, 0.3, 0.7]))
def test_selection_is_scipys_benjamini_hochberg(scores, calibration, rate):
    p = p_values(scores, calibration)
    adjusted = false_discovery_control(p, method="bh")
    # The two round at different places, so the ties between them are left to neither.
    clear = np.abs(adjusted - rate) > 1e-12
    assert ((p <= select_ood(p, rate)) == (adjusted <= rate))[clear].all()


def test_p_values_of_id_images_are_uniform_on_average():
    generator = np.random.default_rng(0)
    for level in (0.05, 0.2):
        hits = [
            float(np.mean(p_values(generator.normal(size=50), generator.normal(size=99)) <= level)) for _ in range(2000)
        ]
        # 99 + 1 is a multiple of 1 / level, so the rate is met exactly, not only bounded.
        assert np.mean(hits) == pytest.approx(level, abs=4 * np.std(hits) / math.sqrt(len(hits)))


def test_false_discovery_rate_is_at_most_what_was_asked():
    generator = np.random.default_rng(1)
    rates, found = [], []
    for _ in range(600):
        calibration = generator.normal(size=400)
        inside, outside = generator.normal(size=160), generator.normal(-3, size=40)
        p = p_values(np.concatenate([inside, outside]), calibration)
        selected = p <= select_ood(p, 0.1)
        rates.append(selected[:160].sum() / max(1, selected.sum()))
        found.append(selected[160:].mean())
    # Benjamini-Hochberg's rate is 0.1 times the share of ID images, 0.8.
    assert np.mean(rates) == pytest.approx(0.08, abs=4 * np.std(rates) / math.sqrt(len(rates)))
    assert np.mean(found) > 0.7


def test_nothing_is_selected_where_nothing_is_foreign_enough():
    assert select_ood([0.5, 0.9], 0.05) == 0
    assert select_ood([], 0.05) == 0


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, math.nan])
def test_rates_outside_the_unit_interval_are_refused(rate):
    with pytest.raises(UsageError, match="not between 0 and 1"):
        select_ood([0.5], rate)
    with pytest.raises(UsageError, match="not between 0 and 1"):
        batch_verdict([0.5], [0.1], 0.0, level=rate)


def test_thresholds_by_class_accept_the_share_in_each_class():
    generator = np.random.default_rng(2)
    predictions = np.repeat([0, 1, 2], [200, 200, 5])
    scores = generator.normal(size=405) + 3 * predictions
    chosen = class_thresholds(scores, predictions, acceptance=0.9)
    assert set(chosen) == {0, 1}
    common = choose_threshold(scores, acceptance=0.9).value
    accepted = scores >= thresholds_of(predictions, common, chosen)
    for label in (0, 1):
        assert accepted[predictions == label].mean() == 0.9
    assert (accepted[predictions == 2] == (scores[predictions == 2] >= common)).all()


def test_a_verdict_calls_as_many_unshifted_deliveries_shifted_as_it_may():
    generator = np.random.default_rng(3)
    wrong = []
    for _ in range(500):
        calibration = generator.normal(size=120)
        threshold = choose_threshold(calibration, acceptance=0.95).value
        wrong.append(batch_verdict(generator.normal(size=80), calibration, threshold, level=0.1).shifted)
    # Both tests are discrete and overlap, so the rate is below the level; the margin is four standard errors.
    assert 0.02 < np.mean(wrong) < 0.1 + 4 * math.sqrt(0.1 * 0.9 / 500)


def test_the_count_of_rejected_images_has_the_distribution_that_the_test_assumes():
    generator = np.random.default_rng(4)
    p = []
    for _ in range(1000):
        calibration = generator.exponential(size=60)
        threshold = choose_threshold(calibration, acceptance=0.9).value
        p.append(batch_verdict(generator.exponential(size=200), calibration, threshold).rejected_p)
    for level in (0.05, 0.25, 0.5):
        # A p-value of a discrete count is at most as often below a level as the level says.
        assert np.mean(np.array(p) <= level) < level + 4 * math.sqrt(level * (1 - level) / 1000)
    assert np.mean(np.array(p) <= 0.5) > 0.4


def test_shifted_deliveries_are_found_in_either_direction():
    generator = np.random.default_rng(5)
    calibration = generator.normal(size=300)
    threshold = choose_threshold(calibration, acceptance=0.95).value
    foreign = np.concatenate([generator.normal(size=80), generator.normal(-4, size=20)])
    found = batch_verdict(foreign, calibration, threshold)
    assert found.shifted and found.rejected >= 20 and found.rejected_p < 0.001
    assert found.expected == pytest.approx(0.05, abs=0.004)
    higher = batch_verdict(generator.normal(2, size=100), calibration, threshold)
    assert higher.shifted and higher.rejected == 0 and higher.scores_p < 0.001


def test_an_empty_delivery_and_scores_that_are_not_numbers_are_refused():
    with pytest.raises(UsageError, match="no images"):
        batch_verdict([], [1.0], 0.0)
    with pytest.raises(ValueError, match="finite"):
        p_values([math.nan], [1.0])
    with pytest.raises(ValueError, match="no calibration scores"):
        p_values([1.0], [])
