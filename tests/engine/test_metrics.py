"""Metrics against scikit-learn, pytorch-ood and slow loops, and the bootstrap against resampling the scores themselves."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_ood.metrics import OODMetrics
from pytorch_ood.metrics import functional as pytorch_ood_metrics
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from negprompt_cli.engine.metrics.bootstrap import bootstrap_average_ci, bootstrap_ci
from negprompt_cli.engine.metrics.detection import (
    METRICS,
    OodMetrics,
    acceptance_curve,
    area_under_roc,
    evaluate_scores,
    fpr_at_recall,
)


def _samples(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ID scores, OOD scores, whether each ID sample was classified correctly."""
    g = np.random.default_rng(len(kind))
    id_scores, ood_scores = {
        "random": lambda: (g.normal(1, 1, 300), g.normal(0, 1.5, 200)),
        "few distinct values": lambda: (g.integers(0, 5, 200) / 4, g.integers(-1, 4, 300) / 4),
        "one each": lambda: (np.array([0.3]), np.array([0.1])),
        "one against two": lambda: (np.array([0.5]), np.array([0.5, 0.7])),
        "twenty, where 95 % is a sample": lambda: (np.arange(20.0), np.arange(20.0) - 0.5),
        "separated": lambda: (np.array([3.0, 2.0, 2.0]), np.array([1.0, 0.0, -1.0])),
        "reversed": lambda: (np.array([0.0, -1.0]), np.array([1.0, 2.0, 3.0])),
        "minus zero": lambda: (np.array([0.0, 1.0, -0.0]), np.array([-0.0, 0.0, -1.0])),
        "close to one": lambda: (1 - g.random(500) * 1e-15, 1 - g.random(500) * 2e-15),
        "large": lambda: (g.normal(1, 1, 100_000).astype(np.float32), g.normal(0, 1, 100_000).astype(np.float32)),
    }[kind]()
    return id_scores, ood_scores, g.random(len(id_scores)) < 0.7


KINDS = [
    "random",
    "few distinct values",
    "one each",
    "one against two",
    "twenty, where 95 % is a sample",
    "separated",
    "reversed",
    "minus zero",
    "close to one",
    "large",
]
SMALL = [kind for kind in KINDS if kind != "large"]


@pytest.fixture(params=KINDS)
def samples(request):
    return _samples(request.param)


def _joined(id_scores, ood_scores):
    return np.repeat([1, 0], [len(id_scores), len(ood_scores)]), np.concatenate([id_scores, ood_scores])


def test_auroc_and_average_precision_equal_scikit_learn(samples):
    id_scores, ood_scores, _ = samples
    is_id, scores = _joined(id_scores, ood_scores)
    found = evaluate_scores(id_scores, ood_scores)
    assert found.auroc == pytest.approx(roc_auc_score(is_id, scores), abs=1e-12)
    assert found.aupr_in == pytest.approx(average_precision_score(is_id, scores), abs=1e-12)
    assert found.aupr_out == pytest.approx(average_precision_score(1 - is_id, -scores), abs=1e-12)


@pytest.mark.parametrize("recall", [0.05, 0.5, 0.8, 0.95, 0.99, 1.0])
def test_fpr_at_recall_follows_the_roc_curve_in_both_conventions(samples, recall):
    id_scores, ood_scores, _ = samples
    is_id, scores = _joined(id_scores, ood_scores)
    fpr, tpr, _ = roc_curve(is_id, scores, drop_intermediate=False)
    expected = fpr[np.argmax(tpr >= recall)]
    assert fpr_at_recall(acceptance_curve(id_scores, ood_scores), recall) == pytest.approx(expected, abs=1e-9)
    fpr, tpr, _ = roc_curve(1 - is_id, -scores, drop_intermediate=False)
    expected = fpr[np.argmax(tpr >= recall)]
    assert fpr_at_recall(acceptance_curve(id_scores, ood_scores).mirrored(), recall) == pytest.approx(
        expected, abs=1e-9
    )


def test_all_agree_with_pytorch_ood_whose_scores_point_the_other_way(samples):
    id_scores, ood_scores, correct = samples
    is_id, scores = _joined(id_scores, ood_scores)
    outlier_scores, labels = torch.from_numpy(-scores.astype(np.float64)), torch.from_numpy(np.where(is_id, 0, -1))
    theirs = OODMetrics().update(outlier_scores, labels).compute()
    predictions = torch.from_numpy(np.concatenate([np.where(correct, 0, 1), np.zeros(len(ood_scores), dtype=int)]))
    found = evaluate_scores(id_scores, ood_scores, correct)
    assert found.auroc == pytest.approx(theirs["AUROC"], abs=1e-9)
    assert found.fpr95_ood_positive == pytest.approx(theirs["FPR95TPR"], abs=1e-9)
    assert found.autc == pytest.approx(theirs["AUTC"], abs=1e-9)
    oscr = pytorch_ood_metrics.oscr_score(outlier_scores, predictions, labels)
    assert found.oscr == pytest.approx(oscr, abs=1e-9)
    # Theirs with ID positive: the same function on negated scores and swapped labels.
    swapped = pytorch_ood_metrics.fpr_at_tpr(-outlier_scores, -1 - labels)
    assert found.fpr95_id_positive == pytest.approx(float(swapped), abs=1e-9)


def _slow_reference(id_scores, ood_scores, correct) -> OodMetrics:
    """Every metric from its definition, in loops."""
    ids, oods = [float(s) for s in id_scores], [float(s) for s in ood_scores]
    n, m = len(ids), len(oods)
    levels = sorted({*ids, *oods}, reverse=True)
    accepted_id = [0.0, *(sum(s >= t for s in ids) / n for t in levels)]
    accepted_ood = [0.0, *(sum(s >= t for s in oods) / m for t in levels)]
    accepted_correct = [0.0, *(sum(s >= t and bool(c) for s, c in zip(ids, correct, strict=True)) / n for t in levels)]
    rejected_id = [sum(s <= t for s in ids) / n for t in reversed(levels)]
    rejected_ood = [sum(s <= t for s in oods) / m for t in reversed(levels)]

    def average_precision(positives, negatives):
        total = 0.0
        for threshold in sorted({*positives, *negatives}, reverse=True):
            here = sum(s == threshold for s in positives)
            hits = sum(s >= threshold for s in positives)
            total += here / len(positives) * hits / (hits + sum(s >= threshold for s in negatives))
        return total

    def trapezoids(positives, negatives):
        points = [(0.0, 1.0)]
        for threshold in sorted({*positives, *negatives}, reverse=True):
            hits = sum(s >= threshold for s in positives)
            points.append((hits / len(positives), hits / (hits + sum(s >= threshold for s in negatives))))
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))

    def scaled(s):
        return (s - levels[-1]) / (levels[0] - levels[-1])

    wins = sum((a > b) + (a == b) / 2 for a, b in itertools.product(ids, oods))
    oscr = sum(
        (accepted_ood[j] - accepted_ood[j - 1]) * (accepted_correct[j] + accepted_correct[j - 1]) / 2
        for j in range(1, len(levels) + 1)
    )
    return OodMetrics(
        auroc=wins / (n * m),
        aupr_in=average_precision(ids, oods),
        aupr_out=average_precision([-s for s in oods], [-s for s in ids]),
        fpr95_id_positive=next(b for a, b in zip(accepted_id, accepted_ood, strict=True) if a >= 0.95),
        fpr95_ood_positive=next(a for a, b in zip(rejected_id, rejected_ood, strict=True) if b >= 0.95),
        detection_error=min((1 - a + b) / 2 for a, b in zip(accepted_id, accepted_ood, strict=True)),
        oscr=oscr,
        autc=None if len(levels) == 1 else (1 - sum(map(scaled, ids)) / n + sum(map(scaled, oods)) / m) / 2,
        aupr_in_trapezoid=trapezoids(ids, oods),
        aupr_out_trapezoid=trapezoids([-s for s in oods], [-s for s in ids]),
    )


@pytest.mark.parametrize("kind", SMALL)
def test_all_equal_loops_over_their_definitions(kind):
    id_scores, ood_scores, correct = _samples(kind)
    expected = _slow_reference(id_scores, ood_scores, correct).model_dump()
    assert evaluate_scores(id_scores, ood_scores, correct).model_dump() == pytest.approx(expected, abs=1e-12)


SCORES = st.lists(st.integers(-6, 6).map(lambda i: i / 4), min_size=1, max_size=12)


@given(SCORES, SCORES, st.data())
def test_all_equal_loops_on_any_small_input(id_scores, ood_scores, data):
    correct = data.draw(st.lists(st.booleans(), min_size=len(id_scores), max_size=len(id_scores)))
    expected = _slow_reference(id_scores, ood_scores, correct).model_dump()
    assert evaluate_scores(id_scores, ood_scores, correct).model_dump() == pytest.approx(expected, abs=1e-12)


@given(SCORES, SCORES)
def test_exchanging_id_and_ood_complements_auroc_and_negating_too_swaps_the_conventions(id_scores, ood_scores):
    here, there = evaluate_scores(id_scores, ood_scores), evaluate_scores(ood_scores, id_scores)
    assert here.auroc == pytest.approx(1 - there.auroc, abs=1e-12)
    mirror = evaluate_scores([-s for s in ood_scores], [-s for s in id_scores])
    assert mirror.auroc == pytest.approx(here.auroc, abs=1e-12)
    assert (mirror.aupr_in, mirror.aupr_out) == pytest.approx((here.aupr_out, here.aupr_in), abs=1e-12)
    assert mirror.fpr95_id_positive == here.fpr95_ood_positive
    assert mirror.fpr95_ood_positive == here.fpr95_id_positive
    assert mirror.detection_error == pytest.approx(here.detection_error, abs=1e-12)
    assert mirror.autc == pytest.approx(here.autc, abs=1e-12)


@given(SCORES, SCORES, st.sampled_from([np.exp, np.cbrt, lambda s: 3 * s + 7, lambda s: np.sign(s) * s**2]))
def test_strictly_increasing_maps_change_nothing_but_autc(id_scores, ood_scores, increasing):
    a, b = np.array(id_scores), np.array(ood_scores)
    here, there = evaluate_scores(a, b, a > 0), evaluate_scores(increasing(a), increasing(b), a > 0)
    assert here.model_copy(update={"autc": there.autc}) == there


@given(
    st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30),
    st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30),
)
def test_metrics_are_fractions_and_bounded_by_each_other(id_scores, ood_scores):
    correct = np.arange(len(id_scores)) % 3 > 0
    found = evaluate_scores(id_scores, ood_scores, correct)
    for name, value in found.model_dump().items():
        assert value is None or -1e-12 <= value <= 1 + 1e-12, name
    assert found.detection_error <= 0.5
    assert found.oscr <= min(found.auroc, correct.mean()) + 1e-12


def test_oscr_is_the_accuracy_when_separated_and_auroc_when_all_is_correct():
    correct = np.array([True, False, True, True])
    assert evaluate_scores([4, 3, 5, 6], [1, 2], correct).oscr == 0.75
    id_scores, ood_scores, _ = _samples("few distinct values")
    found = evaluate_scores(id_scores, ood_scores, np.ones(200, dtype=int))
    assert found.oscr == found.auroc
    assert evaluate_scores(id_scores, ood_scores).oscr is None


def test_equal_scores_everywhere_are_chance_and_leave_autc_undefined():
    found = evaluate_scores([1.0, 1.0, 1.0], [1.0])
    assert (found.auroc, found.fpr95_id_positive, found.fpr95_ood_positive, found.detection_error) == (0.5, 1, 1, 0.5)
    assert found.autc is None


def test_areas_of_large_sets_are_exact():
    n = 3_000_000
    assert area_under_roc(acceptance_curve(np.zeros(n), np.zeros(n))) == 0.5
    assert area_under_roc(acceptance_curve(np.ones(n), np.zeros(n))) == 1.0


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "message"),
    [
        ([], [1.0], "no ID scores"),
        ([1.0], [], "no OOD scores"),
        ([1.0, np.nan], [1.0], "ID scores contain 1 NaN"),
        ([1.0], [np.inf, 1.0, -np.inf], "OOD scores contain 0 NaN and 2 infinite"),
        ([[1.0]], [1.0], "ID scores must be one-dimensional"),
    ],
)
def test_unusable_scores_are_refused_and_named(id_scores, ood_scores, message):
    with pytest.raises(ValueError, match=message):
        evaluate_scores(id_scores, ood_scores)


def test_other_unusable_arguments_are_refused():
    with pytest.raises(ValueError, match="one entry per ID score"):
        evaluate_scores([1.0, 2.0], [0.0], [True])
    with pytest.raises(ValueError, match="only 0 and 1"):
        evaluate_scores([1.0, 2.0], [0.0], [0.5, 1.0])
    for recall in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="recall"):
            fpr_at_recall(acceptance_curve([1.0], [0.0]), recall)
    with pytest.raises(ValueError, match="exceeds float64"):
        evaluate_scores([1e308], [-1e308])


@pytest.mark.parametrize("kind", ["few distinct values", "random"])
def test_bootstrap_equals_resampling_the_scores_themselves(kind):
    id_scores, ood_scores, correct = _samples(kind)
    found = bootstrap_ci([(id_scores, ood_scores, correct)], n=40, level=0.8, generator=np.random.default_rng(3))
    generator = np.random.default_rng(3)
    rows = []
    for _ in range(40):
        i = generator.integers(len(id_scores), size=len(id_scores))
        o = generator.integers(len(ood_scores), size=len(ood_scores))
        resample = evaluate_scores(id_scores[i], ood_scores[o], correct[i])
        rows.append([getattr(resample, name) for name in METRICS])
    low, high = np.quantile(rows, [0.1, 0.9], axis=0)
    assert list(found) == list(METRICS)
    for i, name in enumerate(METRICS):
        assert (found[name].low, found[name].high) == pytest.approx((low[i], high[i]), abs=1e-12), name
        assert found[name].value == getattr(evaluate_scores(id_scores, ood_scores, correct), name)
        assert found[name].level == 0.8


def test_intervals_of_averages_draw_the_id_images_once_for_all_sets():
    generator = np.random.default_rng(0)
    own, others = generator.normal(1, 1, 40).round(1), [generator.normal(0, 1, n).round(1) for n in (25, 60)]
    found = bootstrap_average_ci(own, others, n=30, level=0.8, generator=np.random.default_rng(3))
    draws, means = np.random.default_rng(3), []
    for _ in range(30):
        chosen = own[draws.integers(40, size=40)]
        each = [evaluate_scores(chosen, other[draws.integers(len(other), size=len(other))]) for other in others]
        means.append([np.mean([getattr(m, name) for m in each]) for name in found])
    for i, (name, interval) in enumerate(found.items()):
        whole = np.mean([getattr(evaluate_scores(own, other), name) for other in others])
        low, high = np.quantile([mean[i] for mean in means], [0.1, 0.9])
        assert (interval.value, interval.low, interval.high) == pytest.approx((whole, low, high))
    assert set(found) == {"auroc", "fpr95_id_positive"}
    with pytest.raises(ValueError, match="level"):
        bootstrap_average_ci(own, others, level=1, generator=generator)


def test_the_interval_of_a_mean_draws_the_same_images_for_every_detector():
    generator = np.random.default_rng(7)
    truth, spread = generator.normal(size=30), generator.normal(size=20)
    detectors = [(truth + generator.normal(size=30), spread - 1 + generator.normal(size=20)) for _ in range(3)]
    correct = generator.random((3, 30)) < 0.7
    samples = [(*scores, hits) for scores, hits in zip(detectors, correct, strict=True)]
    found = bootstrap_ci(samples, n=30, level=0.8, generator=np.random.default_rng(3))
    draws, rows = np.random.default_rng(3), []
    for _ in range(30):
        i, o = draws.integers(30, size=30), draws.integers(20, size=20)
        metrics = [evaluate_scores(a[i], b[o], c[i]) for a, b, c in samples]
        rows.append([np.mean([getattr(m, name) for m in metrics]) for name in METRICS])
    low, high = np.quantile(rows, [0.1, 0.9], axis=0)
    for i, name in enumerate(METRICS):
        assert (found[name].low, found[name].high) == pytest.approx((low[i], high[i]), abs=1e-12), name
        assert found[name].value == pytest.approx(
            np.mean([getattr(evaluate_scores(*sample), name) for sample in samples]), abs=1e-12
        )
    for wrong in ([], [samples[0], (samples[1][0][1:], samples[1][1], samples[1][2][1:])]):
        with pytest.raises(ValueError, match="same images"):
            bootstrap_ci(wrong, generator=np.random.default_rng(0))


def test_metrics_that_a_resample_leaves_undefined_have_no_interval():
    # Now and then a resample of two and two draws equal scores only.
    found = bootstrap_ci([([1.0, 2.0], [1.0, 2.0], None)], n=50, generator=np.random.default_rng(0))
    assert set(METRICS) - set(found) == {"oscr", "autc"}


def test_bootstrap_interval_covers_the_true_auroc_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truth = 0.7602499389065233  # of two unit normals one apart: Phi(1 / sqrt 2)
    covered = 0
    for _ in range(60):
        id_scores, ood_scores = generator.normal(1, 1, 150), generator.normal(0, 1, 150)
        interval = bootstrap_ci([(id_scores, ood_scores, None)], n=100, level=0.9, generator=generator)["auroc"]
        covered += interval.low <= truth <= interval.high
    assert 46 <= covered <= 60  # of 60, 54 expected, standard deviation 2.3


def test_a_bootstrap_without_resamples_or_level_is_refused():
    for wrong, message in (({"n": 0}, "n >= 1"), ({"level": 1.0}, "level in")):
        with pytest.raises(ValueError, match=message):
            bootstrap_ci([([1.0, 2.0], [0.0], None)], generator=np.random.default_rng(0), **wrong)
