"""The default score: against loops from its formulas, without units, and its way to other class names without images."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_world import make_world, train
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli import fit_embeddings
from negprompt_cli.config import Config, load_config
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.sets.class_list import given_names, novel_names
from negprompt_cli.embeddings import EmbeddingDetector
from negprompt_cli.engine.embedding_negatives import learn_offsets, negatives_of
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.id_statistics import KAPPA, PRIOR_CLASSES, TERMS, IdStatistics
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.steps.shared.measure import measure
from negprompt_cli.steps.transfer import run_transfer

WIDTH = 24
LOSS = NegativeLoss(**Config().negative.loss.model_dump())


def world(
    classes: int = 6, shots: int = 8, *, common: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class embeddings, images with labels around them, and images of nothing; all share a direction, as CLIP's do."""
    draw = torch.Generator().manual_seed(seed)
    shared = torch.eye(WIDTH)[0] * common
    positives = normalize(torch.randn(classes, WIDTH, generator=draw) / 5 + shared, dim=1)
    labels = torch.arange(classes * shots) % classes
    noise = torch.randn(len(labels), WIDTH, generator=draw) / 12 + torch.eye(WIDTH)[1] / 2
    images = normalize(positives[labels] + noise, dim=1)
    foreign = normalize(torch.randn(40, WIDTH, generator=draw) / 4 + shared, dim=1)
    return positives, images, labels, foreign


def loop_score(f: Tensor, detector) -> float:
    """The score of one image, statistic by statistic, in Python's own floating point numbers."""
    statistics = detector.inputs.id_statistics
    positives = detector.positives.double().tolist()
    negatives = detector.negatives.double().flatten(0, 1).tolist()
    image, usual = f.double().tolist(), statistics.mean.double().tolist()

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    center = [sum(column) / len(positives) for column in zip(*positives, strict=True)]
    cosines = sorted((dot(prompt, image) for prompt in positives), reverse=True)
    moved = [x - m for x, m in zip(image, usual, strict=True)]
    follow, shifts = float(statistics.follow_mean), statistics.shifts.double().tolist()
    directions = [
        [follow * (x - c) + s for x, c, s in zip(prompt, center, shift, strict=True)]
        for prompt, shift in zip(positives, shifts, strict=True)
    ]
    angles = [dot(moved, d) / math.sqrt(dot(moved, moved) * dot(d, d)) for d in directions]
    others = cosines[1:]
    level = sum(others) / len(others)
    squares = sum((cosine - level) ** 2 for cosine in others)
    usual_variance = 0.0
    for prompt in positives:
        offset = [x - c for x, c in zip(prompt, center, strict=True)]
        spread = dot(offset, [dot(offset, row) for row in statistics.covariance.double().tolist()])
        usual_variance += (dot(offset, usual) ** 2 + spread) / (len(positives) - 1)
    variance = (squares + PRIOR_CLASSES * usual_variance) / (len(positives) - 2 + PRIOR_CLASSES)
    values = {
        "b": cosines[0],
        "c": max(angles),
        "g": (cosines[0] - level) / math.sqrt(variance),
        "n": -sum(dot(prompt, image) for prompt in negatives) / len(negatives),
    }
    p, total = dot(center, image), 0.0
    for name, (slope, mean, deviation) in zip(TERMS, statistics.terms.double().tolist(), strict=True):
        z = (values[name.removesuffix("|p")] - slope * p - mean) / deviation
        z += name == "n|p"
        total += -math.log1p(math.exp(-math.pi / math.sqrt(3) * z))
    return total


def test_scores_are_the_formulas():
    positives, images, labels, foreign = world()
    detector = fit_embeddings(positives, images, labels)
    tested = torch.cat([images[:10], foreign[:10]])
    expected = [loop_score(f, detector) for f in tested]
    assert detector.score(tested).tolist() == pytest.approx(expected, rel=1e-4)
    assert (detector.score(tested) <= 0).all()


def test_means_and_deviations_are_those_of_the_training_images():
    positives, images, labels, _ = world()
    detector = fit_embeddings(positives, images, labels)
    terms = dict(zip(TERMS, detector.inputs.id_statistics.terms.tolist(), strict=True))
    b = (images @ positives.T).amax(1)
    p = images @ positives.mean(0)
    assert terms["b"] == pytest.approx([0, float(b.mean()), float(b.std())], abs=1e-6)
    slope, mean, deviation = terms["b|p"]
    plain = np.polyfit(p.double().numpy(), b.double().numpy(), 1)[0]
    # The slope is shrunk towards 0, never beyond it.
    assert 0 <= slope / plain <= 1
    rest = b - slope * p
    assert [mean, deviation] == pytest.approx([float(rest.mean()), float(rest.std())], abs=1e-6)


def test_images_of_added_classes_meet_the_negatives_as_they_are():
    positives, images, labels, _ = world(shots=16)
    old = positives[:4]
    offsets = learn_offsets(images[labels < 4], labels[labels < 4], old, scale=100, loss=LOSS, negatives=2, seed=0)
    every = negatives_of(positives, offsets)

    def learn(some: Tensor, classes: Tensor, prompts: Tensor) -> Tensor:
        seen.update(classes.tolist())
        return every

    seen: set[int] = set()
    added = torch.arange(6) >= 4
    made = IdStatistics.measure(images, labels, positives, every, learn, seed=0, added=added)
    assert seen == {0, 1, 2, 3}
    plain = IdStatistics.measure(images, labels, positives, every, learn, seed=0)
    assert seen == set(range(6))
    # b, b|p, c and g are those of all images.
    assert torch.equal(made.terms[:4], plain.terms[:4])
    # Since `learn` gives the negatives as they are, n|p is that of all images in units of the images of the old classes.
    slope, mean, deviation = made.terms[TERMS.index("n|p")].tolist()
    n, p = -(images @ every.mean((0, 1))), images @ positives.mean(0)
    rest = n - slope * p
    assert [mean, deviation] == pytest.approx([float(rest.mean()), float(rest.std())], rel=0.1)
    none = IdStatistics.measure(images, labels, positives, every, learn, seed=0, added=torch.zeros(6, dtype=torch.bool))
    assert torch.equal(none.terms, plain.terms) and torch.equal(none.unseen, plain.unseen)
    with pytest.raises(UsageError, match=r"needs at least 3 ID images .* there are 0"):
        IdStatistics.measure(images, labels, positives, every, learn, seed=0, added=added.new_ones(6))


def test_images_move_their_class_and_do_not_count_for_themselves():
    positives, images, labels, _ = world(classes=4, shots=3)
    found = fit_embeddings(positives, images, labels).inputs.id_statistics
    mean, follow = found.mean.double(), float(found.follow_mean)
    sides = (positives - positives.mean(0)).double()
    rest = [image.double() - mean - follow * sides[int(k)] for image, k in zip(images, labels, strict=True)]

    def direction(k: int, without: int | None = None) -> Tensor:
        own = [r for i, r in enumerate(rest) if int(labels[i]) == k and i != without]
        return follow * sides[k] + sum(own) / (len(own) + KAPPA)

    expected = torch.stack([normalize(direction(k), dim=0) for k in range(4)])
    torch.testing.assert_close(found.view(positives).directions.double(), expected, atol=1e-5, rtol=0)
    c = [
        max(float(torch.cosine_similarity(f.double() - mean, direction(k, without=i), dim=0)) for k in range(4))
        for i, f in enumerate(images)
    ]
    _, center, deviation = found.terms[TERMS.index("c")].tolist()
    assert [center, deviation] == pytest.approx([np.mean(c), np.std(c, ddof=1)], abs=1e-5)


def test_names_that_stay_keep_what_their_images_said():
    positives, images, labels, _ = world()
    detector = fit_embeddings(positives, images, labels)
    other = normalize(positives[:2].flip(1), dim=1)
    before = detector.inputs.id_statistics.shifts
    after = detector.transfer(torch.cat([other, positives[3:5]])).inputs.id_statistics.shifts
    assert before.any(1).all()
    assert not after[:2].any()
    assert after[2:].equal(before[3:5])


def test_foreign_images_score_lower_and_classes_are_untouched():
    positives, images, labels, foreign = world(shots=16)
    detector = fit_embeddings(positives, images, labels)
    assert detector.score(foreign).median() < detector.score(images).quantile(0.05)
    assert (detector.predict(images) == (images @ positives.T).argmax(1)).all()


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_nothing_depends_on_how_wide_cosines_spread(scale: float):
    """Squeezing all that differs between texts squeezes every class cosine; the ranking by the positives stays."""
    positives, images, labels, foreign = world()
    tested = torch.cat([images, foreign])
    inputs = fit_embeddings(positives, images, labels).inputs
    center = positives.mean(0)

    def terms_of(prompts: Tensor, negatives: Tensor) -> Tensor:
        made = IdStatistics.measure(images, labels, prompts, negatives, lambda *_: negatives, seed=0)
        bank = ScoreInputs(normalize(prompts, dim=1), negatives, None, 1.0, id_statistics=made)
        return torch.from_numpy(compute_scores(tested, bank, ["negprompt"]).scores["negprompt"])

    plain = terms_of(positives, inputs.negatives)
    squeezed = terms_of(normalize(center + scale * (positives - center), dim=1), inputs.negatives)
    assert torch.corrcoef(torch.stack([plain, squeezed]).argsort(1).argsort(1).double())[0, 1] > 0.97


def test_the_same_names_have_the_same_scores_after_a_transfer():
    positives, images, labels, foreign = world()
    detector = fit_embeddings(positives, images, labels)
    again = detector.transfer(positives)
    assert again.threshold is None
    tested = torch.cat([images, foreign])
    assert again.score(tested).tolist() == pytest.approx(detector.score(tested).tolist(), rel=1e-3, abs=1e-4)


def test_other_names_need_no_images():
    positives, images, labels, foreign = world(classes=24, shots=8, seed=3)
    few = labels < 12
    detector = fit_embeddings(positives[:12], images[few], labels[few]).transfer(positives[12:])
    novel, target = images[~few], labels[~few] - 12
    assert (detector.predict(novel) == target).float().mean() > 0.8
    scores = torch.cat([detector.score(novel), detector.score(foreign)])
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score([1] * len(novel) + [0] * len(foreign), scores.numpy()) > 0.8


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_few_classes_work(classes: int):
    positives, images, labels, foreign = world(classes=classes, shots=16)
    detector = fit_embeddings(positives, images, labels)
    assert torch.isfinite(detector.score(torch.cat([images, foreign]))).all()
    assert detector.score(images).median() > detector.score(foreign).median()
    left_out = [n for n, row in zip(TERMS, detector.inputs.id_statistics.terms.tolist(), strict=True) if row[2] == 0]
    # With one class p is b, and there is no direction in which classes differ.
    assert left_out == (["b|p", "c", "g"] if classes == 1 else [])


def test_a_run_repeats_itself_and_seeds_differ():
    positives, images, labels, foreign = world()
    once, again, other = (fit_embeddings(positives, images, labels, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(once.score(foreign), again.score(foreign))
    assert not torch.equal(once.negatives, other.negatives)


def test_thresholds_accept_the_share_of_held_out_images():
    positives, images, labels, _ = world(shots=20)
    detector = fit_embeddings(positives, images[:60], labels[:60])
    with pytest.raises(UsageError, match="calibrate"):
        detector.is_ood(images)
    held_out = images[60:]
    found = detector.calibrate(held_out, 0.9)
    assert float((~found.is_ood(held_out)).float().mean()) == pytest.approx(0.9, abs=0.02)


def test_offsets_are_shared_and_learned():
    positives, images, labels, _ = world()
    asked = {"scale": 100.0, "loss": LOSS, "negatives": 2, "seed": 0}
    offsets = learn_offsets(images, labels, positives, **asked)
    assert offsets.shape == (2, WIDTH)
    start = 0.45 / math.sqrt(WIDTH) * torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    before, after = (
        float(LOSS(images, labels, positives, negatives_of(positives, d), 100.0)["loss"]) for d in (start, offsets)
    )
    assert after < before
    expected = [[normalize(p + d, dim=0) for d in offsets] for p in positives]
    assert torch.allclose(negatives_of(positives, offsets), torch.stack([torch.stack(row) for row in expected]))


def test_what_does_not_fit_is_refused():
    positives, images, labels, _ = world()
    with pytest.raises(UsageError, match="shape"):
        fit_embeddings(positives, images[:, :5], labels)
    with pytest.raises(UsageError, match="0 to 5"):
        fit_embeddings(positives, images, labels + 1)
    with pytest.raises(UsageError, match="finite"):
        fit_embeddings(positives, images * float("nan"), labels)
    with pytest.raises(UsageError, match="at least 3"):
        fit_embeddings(positives, images[:2], labels[:2])
    with pytest.raises(UsageError, match="gama"):
        fit_embeddings(positives, images, labels, settings={"negative.loss.gama": 1})
    with pytest.raises(NegPromptError, match="not finite"):
        learn_offsets(images * float("nan"), labels, positives, scale=100.0, loss=LOSS, negatives=1, seed=0)


def test_damaged_statistics_are_refused():
    positives, images, labels, _ = world()
    found = fit_embeddings(positives, images, labels).inputs.id_statistics
    for change in (
        {"mean": found.mean * 9},
        {"covariance": found.covariance[1:]},
        {"terms": -found.terms},
        {"unseen": found.unseen * float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(change))):
            replace(found, **change)


def test_the_paper_keeps_its_score():
    assert Config().negative.score == "standardised"
    for name in ("quoted", "official"):
        assert load_config(flags={"negative.loss.name": name}).negative.score == "paper"
        assert load_config(flags={"negative.loss.name": name, "negative.score": "standardised"}).negative.score == (
            "standardised"
        )
    for preset in ("paper", "quoted", "official", "separation"):
        assert load_config(preset).negative.score == "paper"
    positives, images, labels, foreign = world()
    detector = fit_embeddings(positives, images, labels, settings={"negative.score": "paper"})
    masses = [(foreign @ w.T).double().exp().sum(1) for w in (positives, detector.negatives.flatten(0, 1))]
    expected = (foreign @ positives.T).amax(1).double().exp() / (masses[0] + masses[1])
    assert detector.score(foreign).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_training_records_statistics_that_evaluation_and_transfer_use(tmp_path: Path, tiny_clip):
    made = make_world(tmp_path, tiny_clip)
    prompts = load_prompts(made.prompts)
    recorded = prompts.id_statistics
    assert recorded is not None
    bench = made.bench(scores=("negprompt", "max-logit"))
    measured = measure(bench, made.artifact)
    detector = EmbeddingDetector(measured.bank, torch.zeros(1, 1))
    expected = [loop_score(f, detector) for f in measured.id_set.encoded.features]
    assert measured.id_set.table.scores["negprompt"] == pytest.approx(expected, rel=1e-3)
    moved = tmp_path / "moved.safetensors"
    for given, same in ((prompts.names, True), (["owl", "bear"], False)):
        run_transfer(
            bench, moved, artifact=made.artifact, names=novel_names(given_names(given)), extend=False, overwrite=True
        )
        followed = load_prompts(moved).id_statistics
        assert followed is not None
        assert torch.allclose(followed.terms, recorded.terms, atol=1e-4) == same
        assert torch.equal(followed.covariance, recorded.covariance)


def test_the_papers_score_records_no_statistics(tmp_path: Path, tiny_clip):
    made = make_world(tmp_path, tiny_clip)
    plain = made.config.model_copy(update={"negative": made.config.negative.model_copy(update={"score": "paper"})})
    train(replace(made, config=plain), made.run)
    assert load_prompts(made.prompts).id_statistics is None
    assert measure(made.bench(), made.artifact).bank.id_statistics is None


def test_an_artifact_with_damaged_statistics_is_refused(tmp_path: Path, tiny_clip):
    from safetensors import safe_open

    made = make_world(tmp_path, tiny_clip)
    with safe_open(made.prompts, framework="pt") as opened:
        metadata = opened.metadata()
    # Copies, since older safetensors read straight from the file that is written over here.
    whole = {name: tensor.clone() for name, tensor in load_file(made.prompts).items()}
    for change in ({"id_mean": whole["id_mean"] * float("nan")}, {"id_terms": whole["id_terms"][:2]}):
        save_file({**whole, **change}, made.prompts, metadata)
        with pytest.raises(UsageError, match=next(iter(change)).removeprefix("id_")):
            load_prompts(made.prompts)
    save_file({name: tensor for name, tensor in whole.items() if name != "id_mean"}, made.prompts, metadata)
    with pytest.raises(UsageError, match="id_mean"):
        load_prompts(made.prompts)
