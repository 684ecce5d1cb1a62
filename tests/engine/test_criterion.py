"""The criterion of ID data alone: who plays what, its figures against scikit-learn, and the self-check made of it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli import fit_embeddings
from negprompt_cli.engine.criterion import MOST_IMAGES, SIDES, Criterion, Figures, measure_criterion, problems
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.self_check import describe as self_check_line

WIDTH = 16


def world(classes: int = 10, shots: int = 12, *, spread: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Class embeddings, and images around them with labels in random order."""
    draw = torch.Generator().manual_seed(seed)
    positives = normalize(torch.randn(classes, WIDTH, generator=draw), dim=1)
    labels = torch.randperm(classes * shots, generator=draw) % classes
    images = normalize(positives[labels] + spread * torch.randn(len(labels), WIDTH, generator=draw), dim=1)
    return positives, images, labels


def positives_only(positives: Tensor, _images: Tensor, _labels: Tensor) -> ScoreInputs:
    return ScoreInputs(positives, None, None, 10.0)


def rows_of(part: Tensor, images: Tensor) -> set[int]:
    """Which of the images the rows of a part are."""
    same = (part[:, None] == images[None]).all(2)
    assert (same.sum(1) == 1).all()
    return set(same.nonzero()[:, 1].tolist())


def test_no_image_plays_two_parts_and_left_out_classes_are_not_learned():
    positives, images, labels = world()
    made = list(problems(positives, images, labels, seed=3, draws=2, directions=2))
    assert [set(one.ood) for one in made] == [{"near", "mixed"}] * 2 + [{"far"}] * 4
    for one in made:
        kept = {int((positives == row).all(1).nonzero()) for row in one.positives}
        (side,) = set(one.ood) - {"mixed"}
        learned, judged, left = (rows_of(part, images) for part in (one.images, one.judged, one.ood[side]))
        assert not (learned & judged or learned & left or judged & left)
        assert {int(labels[i]) for i in learned} == {int(labels[i]) for i in judged} == kept
        assert not {int(labels[i]) for i in left} & kept
        assert len(learned) == len(judged) == 6 * len(kept)
        assert one.positives[one.labels].equal(positives[labels[sorted(learned)]])
    assert len(made[0].positives) == 7
    again = problems(positives, images, labels, seed=3, draws=2, directions=2)
    assert all(a.judged.equal(b.judged) for a, b in zip(made, again, strict=True))


def test_far_classes_are_at_the_ends_of_the_main_direction_of_class_means():
    positives, images, labels = world()
    means = torch.stack([images[labels == k].mean(0) for k in range(10)]).double()
    values, vectors = torch.linalg.eigh(torch.cov(means.T))
    ranks = (means @ vectors[:, values.argmax()]).argsort().tolist()
    one, other = (p for p in problems(positives, images, labels, seed=0, draws=1, directions=1) if "far" in p.ood)
    found = []
    for problem in (one, other):
        kept = [int((positives == row).all(1).nonzero()) for row in problem.positives]
        left = sorted({int(labels[i]) for i in rows_of(problem.ood["far"], images)})
        found.append((kept, left))
    assert sorted(found) == sorted([(sorted(ranks[:5]), sorted(ranks[-2:])), (sorted(ranks[5:]), sorted(ranks[:2]))])


def test_mixed_images_keep_mean_and_covariance_and_nothing_of_an_image():
    positives, images, labels = world(shots=80, spread=0.05)
    one = next(iter(problems(positives, images, labels, seed=0, draws=1, directions=1)))
    judged, mixed = one.judged.double(), one.ood["mixed"].double()
    assert mixed.shape == judged.shape
    # They have length 1 again, which moves both a little.
    assert (mixed.mean(0) - judged.mean(0)).norm() < 0.1
    assert (torch.cov(mixed.T) - torch.cov(judged.T)).norm() < 0.35 * torch.cov(judged.T).norm()
    assert float((mixed @ judged.T).amax(1).median()) < 0.97


def test_figures_are_those_of_scikit_learn():
    positives, images, labels = world(spread=1.0)
    found = measure_criterion(positives, images, labels, positives_only, scores=("mcm", "max-logit"), seed=1)
    expected: dict[str, list[float]] = {side: [] for side in SIDES}
    for one in problems(positives, images, labels, seed=1, draws=2, directions=1):
        for side, foreign in one.ood.items():
            scores = torch.cat([one.judged, foreign]) @ one.positives.T
            truth = [1] * len(one.judged) + [0] * len(foreign)
            expected[side].append(roc_auc_score(truth, scores.amax(1).numpy()))
    for side in SIDES:
        mean = sum(expected[side]) / len(expected[side])
        assert found.sides[side]["max-logit"].auroc == pytest.approx(mean, abs=1e-6)
    assert found.problems == sum(map(len, expected.values())) == 6
    means = [found.sides[side]["mcm"].fpr95_id_positive for side in SIDES]
    assert found.overall("mcm").fpr95_id_positive == pytest.approx(sum(means) / 3)
    assert found.document()["far"]["mcm"]["auroc"] == found.sides["far"]["mcm"].auroc


def test_many_images_are_drawn_evenly_and_classes_without_images_take_no_part():
    positives, images, labels = world(classes=8, shots=900)
    keep = (labels != 7) & ((labels != 0) | (torch.arange(len(labels)) % 20 == 0))
    one = next(iter(problems(positives, images[keep], labels[keep], seed=0, draws=1, directions=1)))
    counts = one.labels.bincount()
    assert len(one.positives) == 5
    assert counts.max() == MOST_IMAGES // 7 // 2 + MOST_IMAGES // 7 % 2
    assert set(counts.tolist()) <= {int(counts.max()), (int((labels[keep] == 0).sum()) + 1) // 2}


@pytest.mark.parametrize(
    ("classes", "shots", "said"), [(3, 12, "3 classes have images, and at least 4"), (4, 3, "at least 10 of each")]
)
def test_too_little_is_refused(classes: int, shots: int, said: str):
    positives, images, labels = world(classes, shots)
    with pytest.raises(UsageError, match=said):
        measure_criterion(positives, images, labels, positives_only, scores=("mcm",), seed=0)
    told = fit_embeddings(positives, images, labels).self_check(images, labels)
    assert told.message.startswith("There is no self-check of the score") and said in told.message
    assert told.facts == {"sides": None} and not told.warning


@pytest.mark.parametrize("form", ["standardised", "paper"])
def test_the_self_check_says_what_the_criterion_found(form: str):
    positives, images, labels = world(spread=0.4)
    detector = fit_embeddings(positives, images, labels, logit_scale=20, settings={"negative.score": form})
    told = detector.self_check(images, labels)
    sides = told.facts["sides"]
    assert list(sides) == list(SIDES)
    means = {s: sum(sides[side][s]["auroc"] for side in SIDES) / 3 for s in ("negprompt", "mcm", "max-logit")}
    assert told.facts["better_than"] == [score for score in ("mcm", "max-logit") if means["negprompt"] > means[score]]
    assert told.warning == (max(means["mcm"], means["max-logit"]) - means["negprompt"] > 0.002)
    assert told == detector.self_check(images, labels)


@pytest.mark.parametrize(
    ("learned", "simple", "warned"),
    [
        (0.9, (0.85, 0.88), ""),
        (0.9, (0.9015, 0.88), ""),
        (0.9, (0.88, 0.9025), "max-logit"),
        (0.9, (0.92, 0.91), "mcm"),
    ],
)
def test_the_self_check_warns_only_of_what_is_more_than_noise(learned: float, simple: tuple[float, float], warned: str):
    figures = dict(zip(("negprompt", "mcm", "max-logit"), (learned, *simple), strict=True))
    made = Criterion({side: {score: Figures(auroc, 0.5) for score, auroc in figures.items()} for side in SIDES}, 6)
    told = self_check_line(made)
    assert told.warning == bool(warned)
    assert "AUROC differences below 0.2 are noise." in told.message
    assert told.message.partition("calibrate and score with ")[2].partition(".")[0] == warned


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": lambda labels: labels + 0.5}, "whole numbers"),
        ({"labels": lambda labels: [f"class {one}" for one in labels.tolist()]}, "whole numbers"),
        ({"labels": lambda labels: labels[:-1]}, "one for each image"),
        ({"images": lambda images: [["a"]]}, "rows of numbers"),
        ({"images": lambda images: [[1.0], [1.0, 2.0]]}, "rows of numbers"),
        ({"images": lambda images: images.index_fill(0, torch.tensor([2, 7]), math.nan)}, "from 0: 2, 7"),
        ({"logit_scale": lambda _: float("nan")}, "positive number"),
        ({"settings": lambda _: {"negative": {"count": 3}}}, "argument `negatives`"),
        ({"settings": lambda _: {"negative.count": 3}}, "argument `negatives`"),
        ({"settings": lambda _: {"data.shots": 3}}, "not data"),
    ],
)
def test_what_would_be_cut_or_not_used_is_refused(change: dict[str, Callable[[Any], Any]], says: str):
    given: dict[str, Any] = dict(zip(("class_embeddings", "images", "labels"), world(), strict=True))
    given |= {name: make(given.get(name)) for name, make in change.items()}
    with pytest.raises(UsageError, match=says):
        fit_embeddings(**given)


@pytest.mark.parametrize(
    "form",
    [
        lambda rows: list(rows),
        lambda rows: rows.numpy().astype(">f8"),
        lambda rows: np.flip(np.flip(rows.numpy(), 0).copy(), 0),
        lambda rows: np.array([*rows.numpy(), None], dtype=object)[:-1],
    ],
    ids=["list of tensors", "big-endian", "reversed view", "column of arrays"],
)
def test_embeddings_come_in_whatever_holds_numbers(form: Callable[[Tensor], Any]):
    positives, images, labels = world()
    found = fit_embeddings(form(positives), form(images), labels.numpy().astype(np.uint16), logit_scale=20)
    assert found.score(form(images)).equal(fit_embeddings(positives, images, labels, logit_scale=20).score(images))


def test_features_of_a_model_in_training_are_taken_as_numbers():
    positives, images, labels = world()
    detector = fit_embeddings(
        positives.clone().requires_grad_(), images.clone().requires_grad_(), labels, logit_scale=20
    )
    plain = fit_embeddings(positives, images, labels.double(), logit_scale=20)
    assert detector.score(images).equal(plain.score(images))
    with pytest.raises(UsageError, match="one for each image"):
        detector.self_check(images, labels[:-1])
