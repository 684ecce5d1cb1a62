"""Every score against loops straight from its formula and, where there is one, against pytorch-ood."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.detector import KNN, MCM, RMD, EnergyBased, Entropy, Mahalanobis, MaxLogit
from safetensors.torch import load_file
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize

from negprompt_cli.config import EvaluateConfig
from negprompt_cli.engine.scores import SCORES, ScoreOptions, score_names
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.gaussian import fit_gaussians
from negprompt_cli.engine.scores.logit_gap import best_count, fit_next_classes, synthetic_ood
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError

DEFAULT_SCORES = EvaluateConfig().scores
CLASSES, NEGATIVES, WORDS, TRAIN, PATCHES, DIMENSION = 5, 2, 7, 60, 3, 8


def _unit(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # Rounded to float32 at once, so that both precisions see the same numbers.
    return normalize(values, dim=-1).float().double()


PAIRS = _unit(CLASSES, WORDS + 2, DIMENSION, seed=27)


def _bank(dtype=torch.float32, **changes) -> ScoreInputs:
    parts = {
        "positives": _unit(CLASSES, DIMENSION, seed=1),
        "negatives": _unit(CLASSES, NEGATIVES, DIMENSION, seed=2),
        "zero_shot": _unit(CLASSES, DIMENSION, seed=3),
        "logit_scale": 100.0,
        "words": _unit(WORDS, DIMENSION, seed=4),
        "words_by_images": _unit(WORDS + 1, DIMENSION, seed=24),
        "words_filtered": _unit(WORDS + 2, DIMENSION, seed=25),
        "csp_words": _unit(WORDS + 3, DIMENSION, seed=26),
        "pair_features": lambda places: PAIRS[places[:, 0], places[:, 1]],
        "train_features": _unit(TRAIN, DIMENSION, seed=5),
        # Labels need not be 0..C-1.
        "train_labels": torch.arange(TRAIN) % CLASSES * 3 + 2,
        **changes,
    }
    return ScoreInputs(
        **{k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in parts.items()}
    )


FEATURES = _unit(11, DIMENSION, seed=6)
LOCAL = _unit(11, PATCHES, DIMENSION, seed=7)


def _dot(a, b) -> float:
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def _log_sum(exponents) -> float:
    """Log of the sum of exponentials in Python floats; the shift only avoids overflow."""
    highest = max(exponents)
    return highest + math.log(math.fsum(math.exp(e - highest) for e in exponents))


def _mcm(f, prompts, tau) -> float:
    exponents = [_dot(p, f) / tau for p in prompts]
    return math.exp(max(exponents) - _log_sum(exponents))


def _negprompt(f, local, bank, tau, options) -> float:
    positives = [_dot(p, f) / tau for p in bank.positives]
    negatives = [_dot(n, f) / tau for row in bank.negatives for n in row]
    return math.exp(max(positives) - _log_sum(positives + negatives))


def _entropy(f, local, bank, tau, options) -> float:
    exponents = [_dot(p, f) / tau for p in bank.positives]
    total = _log_sum(exponents)
    return math.fsum(math.exp(e - total) * (e - total) for e in exponents)


def _gl_mcm(f, local, bank, tau, options) -> float:
    return _mcm(f, bank.positives, tau) + options.local_weight * max(_mcm(r, bank.positives, tau) for r in local)


def _neglabel(group: str):
    def score(f, local, bank, tau, options) -> float:
        positives = [bank.logit_scale * _dot(z, f) for z in bank.zero_shot]
        words = getattr(bank, group)
        length = len(words) // options.word_groups
        shares = []
        for g in range(options.word_groups):
            negatives = [bank.logit_scale * _dot(w, f) for w in words[g * length : (g + 1) * length]]
            shares.append(math.exp(_log_sum(positives) - _log_sum(positives + negatives)))
        return statistics.fmean(shares)

    return score


def _neglabel_pairs(f, local, bank, tau, options) -> float:
    def nearest(group):
        return sorted(range(len(group)), key=lambda i: -_dot(group[i], f))[:5]

    shares = []
    for i in nearest(bank.zero_shot):
        for w in nearest(bank.words_filtered):
            both, alone = (math.exp(bank.logit_scale * _dot(x, f)) for x in (PAIRS[i, w], bank.words_filtered[w]))
            shares.append(both / (both + alone))
    return _neglabel("words_filtered")(f, local, bank, tau, options) + 2 * max(shares)


def _knn(f, local, bank, tau, options) -> float:
    return -sorted(math.dist(f.tolist(), t.tolist()) for t in bank.train_features)[options.neighbours - 1]


def _covariance(residuals: np.ndarray, shrinkage: float) -> np.ndarray:
    covariance = sum(np.outer(r, r) for r in residuals) / len(residuals)
    return (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance))


def _distances(f, bank, options) -> tuple[list[float], float]:
    """Squared Mahalanobis distances to each class, and to the background."""
    train, labels, x = bank.train_features.double().numpy(), bank.train_labels.numpy(), f.double().numpy()
    means = {c: train[labels == c].mean(axis=0) for c in np.unique(labels)}
    residuals = np.stack([t - means[c] for t, c in zip(train, labels, strict=True)])
    weight = options.shrinkage
    if weight is None:
        weight = LedoitWolf(assume_centered=True).fit(residuals).shrinkage_
    within, background = _covariance(residuals, weight), _covariance(train - train.mean(axis=0), weight)
    classes = [float((x - m) @ np.linalg.inv(within) @ (x - m)) for m in means.values()]
    return classes, float((x - train.mean(axis=0)) @ np.linalg.inv(background) @ (x - train.mean(axis=0)))


def _mahalanobis_relative(f, local, bank, tau, options) -> float:
    classes, background = _distances(f, bank, options)
    return -min(d - background for d in classes)


def _gap(cosines: list[float], count: int) -> float:
    highest, *others = sorted(cosines, reverse=True)
    return highest - statistics.fmean(others[:count])


def _logit_gap(f, local, bank, tau, options) -> float:
    count = options.next_classes or max(1, round(0.2 * len(bank.positives)))
    return _gap([_dot(p, f) for p in bank.positives], count)


def _logit_gap_fit(f, local, bank, tau, options) -> float:
    """The N of the largest mean gap of training images less that of mixtures, looked for one by one."""
    order = torch.randperm(TRAIN, generator=(generator := torch.Generator().manual_seed(0)))
    images, labels = bank.train_features.double()[order], bank.train_labels[order]
    synthetic = synthetic_ood(images, labels, generator=generator)
    known, other = ([[_dot(p, x) for p in bank.positives] for x in some] for some in (images, synthetic))
    differences = [
        statistics.fmean(_gap(c, n) for c in known) - statistics.fmean(_gap(c, n) for c in other)
        for n in range(1, CLASSES)
    ]
    return _gap([_dot(p, f) for p in bank.positives], 1 + differences.index(max(differences)))


REFERENCES = {
    "negprompt": _negprompt,
    "mcm": lambda f, local, bank, tau, options: _mcm(f, bank.positives, tau),
    "mcm-zero-shot": lambda f, local, bank, tau, options: _mcm(f, bank.zero_shot, tau),
    "max-logit": lambda f, local, bank, tau, options: max(_dot(p, f) for p in bank.positives),
    "max-logit-zero-shot": lambda f, local, bank, tau, options: max(_dot(z, f) for z in bank.zero_shot),
    "energy": lambda f, local, bank, tau, options: _log_sum([bank.logit_scale * _dot(p, f) for p in bank.positives]),
    "entropy": _entropy,
    "mcm-clip-t": lambda f, local, bank, tau, options: _mcm(f, bank.positives, 1 / bank.logit_scale),
    "logit-gap": _logit_gap,
    "logit-gap-fit": _logit_gap_fit,
    "gl-mcm": _gl_mcm,
    "neglabel": _neglabel("words"),
    "neglabel-images": _neglabel("words_by_images"),
    "neglabel-filtered": _neglabel("words_filtered"),
    "neglabel-pairs": _neglabel_pairs,
    "csp": _neglabel("csp_words"),
    "knn": _knn,
    "mahalanobis": lambda f, local, bank, tau, options: -min(_distances(f, bank, options)[0]),
    "mahalanobis-relative": _mahalanobis_relative,
}


def test_every_score_has_a_reference():
    assert set(REFERENCES) == set(SCORES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize(
    "options",
    [ScoreOptions(), ScoreOptions(next_classes=3, word_groups=2, neighbours=3, shrinkage=0.3, local_weight=0.25)],
    ids=["default options", "other options"],
)
def test_scores_equal_loops_over_their_formulas(dtype, temperature, options):
    bank = _bank(dtype)
    table = compute_scores(
        FEATURES.to(dtype),
        bank,
        score_names(),
        temperature=temperature,
        options=options,
        local_features=LOCAL.to(dtype),
    )
    assert list(table.scores) == list(score_names())
    # A float32 cosine is off by about 1e-7, an exponent by that over tau.
    tolerance = 1e-12 if dtype == torch.float64 else 4e-7 / min(temperature, 1)
    for name, reference in REFERENCES.items():
        expected = [reference(f, local, bank, temperature, options) for f, local in zip(FEATURES, LOCAL, strict=True)]
        assert table.scores[name].dtype == np.float64
        assert table.scores[name].shape == (11,)
        # The relative tolerance is the stricter one for all but values near zero.
        np.testing.assert_allclose(table.scores[name], expected, rtol=10 * tolerance, atol=tolerance, err_msg=name)
    nearest = [max(range(CLASSES), key=lambda i: _dot(bank.positives[i], f)) for f in FEATURES]
    assert table.predictions.tolist() == nearest
    assert table.predictions.dtype == np.int64


def test_scores_equal_pytorch_ood_whose_outlier_scores_are_negated():
    bank, features = _bank(), FEATURES.float()
    cosines = features @ bank.positives.T
    train, labels = bank.train_features, torch.arange(TRAIN) % CLASSES
    options = ScoreOptions(shrinkage=0.0)
    found = compute_scores(features, bank, [n for n in score_names() if n != "gl-mcm"], options=options).scores
    theirs = {
        "mcm": MCM(None, bank.positives).predict_features(features),
        "mcm-zero-shot": MCM(None, bank.zero_shot).predict_features(features),
        "max-logit": MaxLogit.score(cosines),
        "energy": EnergyBased.score(bank.logit_scale * cosines),
        "entropy": Entropy.score(cosines),
        "knn": KNN(None, k=5).fit_features(train, labels).predict_features(features),
        # Half the distance under the sum of outer products, where ours has their mean.
        "mahalanobis": 2 * TRAIN * Mahalanobis(None).fit_features(train, labels).predict_features(features),
        "mahalanobis-relative": TRAIN * RMD(None).fit_features(train, labels).predict_features(features),
    }
    for name, outlier_scores in theirs.items():
        # Their ridge of 1e-6 on the sum of outer products limits the agreement of the distances.
        np.testing.assert_allclose(found[name], -outlier_scores.numpy(), rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("block_bytes", [1, 700, 4000, 2**20])
def test_the_block_size_changes_nothing(block_bytes):
    whole = compute_scores(FEATURES, _bank(torch.float64), score_names(), local_features=LOCAL, block_bytes=2**30)
    parts = compute_scores(FEATURES, _bank(torch.float64), score_names(), local_features=LOCAL, block_bytes=block_bytes)
    for name in score_names():
        np.testing.assert_allclose(parts.scores[name], whole.scores[name], rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(parts.predictions, whole.predictions)


@pytest.mark.parametrize("name", score_names())
def test_a_score_alone_is_the_score_among_others(name):
    every = compute_scores(FEATURES, _bank(torch.float64), score_names(), local_features=LOCAL)
    alone = compute_scores(FEATURES, _bank(torch.float64), [name], local_features=LOCAL)
    assert list(alone.scores) == [name]
    np.testing.assert_allclose(alone.scores[name], every.scores[name], rtol=1e-14)
    np.testing.assert_array_equal(alone.predictions, every.predictions)


@pytest.mark.parametrize("temperature", [0.01, 0.002])
def test_extreme_cosines_at_small_temperatures_stay_finite_and_exact(temperature):
    # An image equal to its positive, and its opposite, which equals a negative.
    e = torch.eye(4)
    bank = ScoreInputs(e[:2], torch.stack([e[2:3], -e[:1]]), e[:2], logit_scale=500.0, words=-e[:1])
    names = ("negprompt", "mcm", "energy", "entropy", "neglabel", "gl-mcm")
    features = torch.stack([e[0], -e[0]])
    found = compute_scores(features, bank, names, temperature=temperature, local_features=features[:, None])
    for name in names:
        expected = [REFERENCES[name](f, f[None], bank, temperature, ScoreOptions()) for f in features]
        assert all(map(math.isfinite, expected))
        # An entropy of 1e-42 is zero; a score of 1e-87 still ranks.
        atol = 1e-30 if name == "entropy" else 0.0
        np.testing.assert_allclose(found.scores[name], expected, rtol=1e-9, atol=atol, err_msg=name)
    # exp(-1 / tau) and less: far below what float32 holds, but a score.
    assert found.scores["negprompt"][1] > 0


def test_float32_ranks_a_thousand_classes_as_float64_does():
    """At tau = 1 the scores of different images differ by a few per cent; float32 cosines must not tie or reorder them."""
    shared, images = _unit(DIMENSION * 32, seed=8), _unit(DIMENSION * 32, seed=9)
    classes = _unit(1000, DIMENSION * 32, seed=10)
    positives = normalize(0.8 * shared + 0.6 * classes, dim=-1)
    negatives = normalize(0.8 * shared + 0.3 * images + 0.6 * _unit(1000, 1, DIMENSION * 32, seed=11), dim=-1)
    noise, strength = _unit(1200, DIMENSION * 32, seed=12), torch.tensor([0.18, 0.12]).repeat_interleave(600)
    own = classes[torch.arange(1200) % 1000] * strength[:, None]
    features = normalize(0.2 * shared + 0.7 * images + own + 0.6 * noise, dim=-1)
    bank = ScoreInputs(positives, negatives, positives.flip(0), logit_scale=100.0)
    exact = compute_scores(features, bank, DEFAULT_SCORES)
    single = compute_scores(features.float(), bank, DEFAULT_SCORES)
    is_id = np.repeat([1, 0], 600)
    np.testing.assert_array_equal(single.predictions, exact.predictions)
    for name in DEFAULT_SCORES:
        np.testing.assert_allclose(single.scores[name], exact.scores[name], rtol=1e-6, err_msg=name)
        single_auroc, exact_auroc = (roc_auc_score(is_id, t.scores[name]) for t in (single, exact))
        # One pair in the wrong order is 1 / 600^2 = 2.8e-6.
        assert single_auroc == pytest.approx(exact_auroc, abs=1e-5), name
        assert 0.55 < exact_auroc < 0.95
    for name in ("negprompt", "mcm"):
        assert len(np.unique(single.scores[name])) == 1200


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 4), st.floats(0.005, 5))
def test_negatives_lower_the_score_and_never_touch_predictions(seed, classes, negatives, temperature):
    bank = _bank(
        positives=_unit(classes, DIMENSION, seed=seed),
        zero_shot=None,
        negatives=_unit(classes, negatives, DIMENSION, seed=seed + 1),
    )
    features = _unit(9, DIMENSION, seed=seed + 2).float()
    found = compute_scores(features, bank, ["negprompt", "mcm", "max-logit", "energy"], temperature=temperature)
    without = compute_scores(features, _bank(positives=bank.positives, negatives=None, zero_shot=None), [])
    np.testing.assert_array_equal(found.predictions, without.predictions)
    assert without.scores == {}
    negprompt, mcm = found.scores["negprompt"], found.scores["mcm"]
    assert (negprompt > 0).all()
    assert (negprompt <= mcm).all()
    assert (mcm >= 1 / classes - 1e-6).all()
    assert (mcm <= 1 + 1e-12).all()
    slack = found.scores["energy"] - 100 * found.scores["max-logit"]
    assert (slack >= -1e-9).all()
    assert (slack <= math.log(classes) + 1e-9).all()


# logit-gap-fit draws mixtures of training images, which follow their order.
@pytest.mark.parametrize("name", [name for name in score_names() if name != "logit-gap-fit"])
def test_the_order_of_images_and_prompts_does_not_matter(name):
    bank = _bank(torch.float64)
    order, classes = torch.randperm(11, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 4, 1, 2])
    permuted = _bank(
        torch.float64,
        positives=bank.positives[classes],
        negatives=bank.negatives[classes].flip(1),
        zero_shot=bank.zero_shot[classes],
        train_features=bank.train_features.flip(0),
        train_labels=bank.train_labels.flip(0),
    )
    here = compute_scores(FEATURES, bank, [name], local_features=LOCAL)
    there = compute_scores(FEATURES[order], permuted, [name], local_features=LOCAL[order].flip(1))
    np.testing.assert_allclose(there.scores[name], here.scores[name][order], rtol=1e-10)
    np.testing.assert_array_equal(classes[there.predictions], here.predictions[order])


def test_half_precision_input_and_autocast_do_not_lower_the_precision_of_products():
    features, bank = normalize(FEATURES.bfloat16().float(), dim=1), _bank()
    expected = compute_scores(features, bank, DEFAULT_SCORES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compute_scores(features, bank, DEFAULT_SCORES)
    stored = compute_scores(FEATURES.half(), _bank(torch.float16), DEFAULT_SCORES)
    for name in DEFAULT_SCORES:
        np.testing.assert_array_equal(found.scores[name], expected.scores[name])
        cast = compute_scores(FEATURES.half().float(), _bank(torch.float16), DEFAULT_SCORES)
        np.testing.assert_array_equal(stored.scores[name], cast.scores[name])


def test_no_images_give_empty_scores():
    table = compute_scores(FEATURES[:0].float(), _bank(), DEFAULT_SCORES)
    assert [len(table.scores[name]) for name in DEFAULT_SCORES] == [0] * 5
    assert table.predictions.dtype == np.int64


def test_input_is_left_as_it_is():
    features, bank = FEATURES.clone(), _bank(torch.float64)
    before = {k: v.clone() for k, v in vars(bank).items() if isinstance(v, torch.Tensor)}
    compute_scores(features, bank, score_names(), local_features=LOCAL)
    assert torch.equal(features, FEATURES)
    assert all(torch.equal(getattr(bank, name), value) for name, value in before.items())


def test_mixtures_follow_the_generator_and_have_no_noise_where_images_do_not_spread():
    labels = torch.arange(30) % 3
    images = torch.eye(3, dtype=torch.float64)[labels]
    made = synthetic_ood(images, labels, generator=torch.Generator().manual_seed(0))
    again = synthetic_ood(images, labels, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made, again)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(30, dtype=torch.float64))
    alone = torch.zeros(8, dtype=torch.int64)
    torch.testing.assert_close(
        synthetic_ood(images[:1].expand(8, -1), alone, generator=torch.Generator()), images[:8] * 0 + images[0]
    )


def test_the_number_of_next_classes_is_that_of_the_largest_difference():
    known = torch.tensor([[0.9, 0.1, 0.4, 0.1]], dtype=torch.float64)
    # Mean gaps: 0.5, 0.65, 0.7 of the ID image; 0.2, 0.2, 1/3 of the first, 0.1, 0.15, 0.3 and 0.1, 0.1, 0.1 of the others.
    assert best_count(known, torch.tensor([[0.4, 0.6, 0.0, 0.4]], dtype=torch.float64)) == 2
    assert best_count(known, torch.tensor([[0.5, 0.4, 0.3, -0.1]], dtype=torch.float64)) == 2
    assert best_count(known, torch.tensor([[0.6, 0.5, 0.5, 0.5]], dtype=torch.float64)) == 3
    assert best_count(known, known) == 1
    assert best_count(known[:, :1], known[:, :1]) == 1
    assert 1 <= fit_next_classes(_unit(40, 8, seed=1), torch.arange(40) % 4, _unit(4, 8, seed=2)) <= 3


def test_an_image_of_the_training_set_has_distance_zero():
    bank = _bank()
    found = compute_scores(bank.train_features, bank, ["knn"], options=ScoreOptions(neighbours=1))
    np.testing.assert_array_equal(found.scores["knn"], np.zeros(TRAIN))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": FEATURES[0]}, "features must be"),
        ({"features": FEATURES[:, :4]}, "features must be"),
        ({"features": FEATURES * 2}, "L2-normalised"),
        ({"features": FEATURES * float("nan")}, "L2-normalised"),
        ({"local_features": LOCAL[:3]}, "local_features must be"),
        ({"local_features": FEATURES}, "local_features must be"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_unusable_arguments_are_refused(change, message):
    arguments = {"features": FEATURES, "bank": _bank(torch.float64), "names": ["mcm"], **change}
    with pytest.raises(ValueError, match=message):
        compute_scores(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": _unit(DIMENSION, seed=0)}, r"positives must be \(K, D\)"),
        ({"negatives": _unit(CLASSES + 1, 2, DIMENSION, seed=0)}, r"negatives must have shape \(5, any, 8\)"),
        ({"negatives": _unit(CLASSES, 0, DIMENSION, seed=0)}, "not be empty"),
        ({"zero_shot": _unit(CLASSES, DIMENSION + 1, seed=0)}, "zero_shot must have shape"),
        ({"words": _unit(WORDS, DIMENSION, seed=0) * 3}, "words must be finite and L2-normalised"),
        ({"train_labels": torch.arange(3)}, "one entry per row"),
        ({"logit_scale": 0.0}, "logit_scale"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        _bank(**change)


def test_options_out_of_reach_name_what_to_change():
    bank = _bank()
    for options, name, message in (
        (ScoreOptions(neighbours=TRAIN + 1), "knn", "Lower neighbours"),
        (ScoreOptions(word_groups=WORDS + 1), "neglabel", "Lower word_groups"),
    ):
        with pytest.raises(UsageError, match=message):
            compute_scores(FEATURES.float(), bank, [name], options=options)
    few = _bank(train_features=_unit(6, DIMENSION, seed=0), train_labels=torch.arange(6) % 3)
    for name in ("mahalanobis", "mahalanobis-relative"):
        with pytest.raises(UsageError, match="Raise shrinkage"):
            compute_scores(FEATURES.float(), few, [name], options=ScoreOptions(shrinkage=0.0))
        assert np.isfinite(compute_scores(FEATURES.float(), few, [name]).scores[name]).all()


@given(st.integers(1, 6), st.integers(3, 6), st.integers(0, 99))
@settings(max_examples=50)
def test_what_is_unlike_all_training_images_is_not_made_more_id_by_it(classes: int, shots: int, seed: int):
    # Fewer samples than dimensions: beyond the span of the training features only the shrinkage speaks.
    generator = torch.Generator().manual_seed(seed)
    centres = 0.5 * torch.randn(classes, 40, generator=generator, dtype=torch.float64)
    train = centres.repeat_interleave(shots, 0) + torch.randn(
        classes * shots, 40, generator=generator, dtype=torch.float64
    )
    gaussians = fit_gaussians(train, torch.arange(classes).repeat_interleave(shots), None)
    beyond = torch.linalg.svd(train)[2][-1]
    steps = train[0] + torch.linspace(0, 10, 8, dtype=torch.float64)[:, None] * beyond
    relative = gaussians.background_distance(steps) - gaussians.class_distance(steps)
    assert bool((relative.diff() <= 1e-9).all())


@pytest.mark.parametrize(("classes", "shots"), [(3, 16), (6, 16), (10, 8), (30, 16)])
def test_no_visual_score_is_below_chance_on_real_features(shared: Path, classes: int, shots: int):
    features = load_file(shared / "assets/features/lite-clip.safetensors")
    labels = features["train.labels"]
    rows = torch.cat([torch.nonzero(labels == c)[:shots, 0] for c in range(classes)])
    bank = ScoreInputs(
        normalize(features["text"].float(), dim=-1)[:classes],
        None,
        None,
        41.69,
        train_features=normalize(features["train.images"][rows].float(), dim=-1),
        train_labels=labels[rows],
    )
    known = normalize(features["val.images"][features["val.labels"] < classes].float(), dim=-1)
    names = ("mahalanobis", "mahalanobis-relative", "knn")
    own = compute_scores(known, bank, names).scores
    for other in ("textures", "cifar10"):
        foreign = compute_scores(normalize(features[f"{other}.images"].float(), dim=-1), bank, names).scores
        for name in names:
            truth = np.r_[np.ones(len(own[name])), np.zeros(len(foreign[name]))]
            assert roc_auc_score(truth, np.r_[own[name], foreign[name]]) > 0.7, (name, other)


def test_one_image_per_class_has_no_spread():
    bank = _bank(train_features=_unit(CLASSES, DIMENSION, seed=0), train_labels=torch.arange(CLASSES))
    with pytest.raises(UsageError, match="two different training images"):
        compute_scores(FEATURES.float(), bank, ["mahalanobis"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"next_classes": 0},
        {"word_groups": 0},
        {"neighbours": 0},
        {"shrinkage": 1.5},
        {"shrinkage": -0.1},
        {"local_weight": -1.0},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScoreOptions(**wrong)
