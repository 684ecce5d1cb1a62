"""How firmly negatives belong to their classes, against loops over classes and negatives in float64."""

import math
from dataclasses import replace

import pytest
import torch
from random_world import seeded
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine.class_bond import class_contrast, cosine_between_classes, own_class_share
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.prompt_learners.neutral_names import neutral_names
from negprompt_cli.engine.prompt_learners.training import Features, negative_objective

CLASSES, FEATURES = 5, 7


def unit(*shape: int, seed: int) -> Tensor:
    return normalize(torch.randn(*shape, generator=seeded(seed), dtype=torch.float64), dim=-1)


def slow_cosines(positives: Tensor, negatives: Tensor) -> dict[tuple[int, int, int], float]:
    """The cosine of the centred negative j of class i with the centred positive of class m, by (i, j, m)."""
    classes, count, width = negatives.shape
    p, n = positives.tolist(), negatives.tolist()
    found = {}
    for j in range(count):
        for i in range(classes):
            a = [n[i][j][d] - sum(n[c][j][d] for c in range(classes)) / classes for d in range(width)]
            for m in range(classes):
                b = [p[m][d] - sum(p[c][d] for c in range(classes)) / classes for d in range(width)]
                dot = sum(x * y for x, y in zip(a, b, strict=True))
                found[i, j, m] = dot / math.hypot(*a) / math.hypot(*b)
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_against_loops(count: int) -> None:
    positives = unit(CLASSES, FEATURES, seed=1)
    # Near enough to their positives that some find their own class and some do not.
    negatives = normalize(positives[:, None] + 1.2 * unit(CLASSES, count, FEATURES, seed=2), dim=-1)
    cosines = slow_cosines(positives, negatives)
    own = [cosines[i, j, i] for i in range(CLASSES) for j in range(count)]
    assert float(class_contrast(positives, negatives)) == pytest.approx(1 - sum(own) / len(own), abs=1e-12)
    right = [max(range(CLASSES), key=lambda m: cosines[i, j, m]) == i for i in range(CLASSES) for j in range(count)]
    assert own_class_share(positives, negatives) == pytest.approx(sum(right) / len(right))
    pairs = [
        float(negatives[i, j] @ negatives[m, k])
        for i in range(CLASSES)
        for m in range(CLASSES)
        if i != m
        for j in range(count)
        for k in range(count)
    ]
    assert cosine_between_classes(negatives) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_the_term_has_a_gradient_and_is_part_of_the_loss() -> None:
    positives, negatives = unit(CLASSES, FEATURES, seed=1), unit(CLASSES, 2, FEATURES, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda n: class_contrast(positives, n), negatives)
    images, labels = unit(6, FEATURES, seed=3), torch.arange(6) % CLASSES
    plain = NegativeLoss("separation", 0.1, 0.5)(images, labels, positives, negatives, 10.0)
    bound = NegativeLoss("separation", 0.1, 0.5, contrast=0.7)(images, labels, positives, negatives, 10.0)
    assert "class" not in plain
    expected = plain["loss"] + 0.7 * class_contrast(positives, negatives)
    assert bound["loss"].item() == pytest.approx(expected.item())


def test_what_all_classes_share_does_not_count() -> None:
    positives, shift = unit(CLASSES, FEATURES, seed=1), 30 * unit(FEATURES, seed=4)
    negatives = (shift + 0.01 * positives)[:, None]
    assert float(class_contrast(positives, negatives)) == pytest.approx(0, abs=1e-9)
    assert own_class_share(positives, negatives) == 1
    assert float(class_contrast(positives, shift - 0.01 * positives[:, None])) == pytest.approx(2, abs=1e-9)


def test_one_class_has_no_contrast() -> None:
    positives, negatives = unit(1, FEATURES, seed=1), unit(1, 2, FEATURES, seed=2)
    assert float(class_contrast(positives, negatives)) == 0
    assert cosine_between_classes(negatives) is None


def test_names_without_images_belong_to_the_class_term_alone() -> None:
    draw = torch.Generator().manual_seed(3)
    positives = normalize(torch.randn(7, 12, generator=draw), dim=1)
    negatives = normalize(torch.randn(7, 2, 12, generator=draw), dim=2)
    images = normalize(torch.randn(9, 12, generator=draw), dim=1)
    batch = Features(images, torch.arange(9) % 5)
    loss = NegativeLoss("separation", 0.1, 0.5, contrast=0.7)
    found = negative_objective(loss, positives=positives, scale=10.0, others=2)(
        batch, negatives.transpose(0, 1), slice(None)
    )
    plain = replace(loss, contrast=0.0)(images, batch.labels, positives[:5], negatives[:5], 10.0)
    assert {name: found[name] for name in ("nis", "npd", "nnd")} == {n: plain[n] for n in ("nis", "npd", "nnd")}
    expected = plain["loss"] + 0.7 * class_contrast(positives, negatives)
    assert float(found["loss"]) == pytest.approx(float(expected), abs=1e-6)


def test_neutral_names_are_different_and_always_the_same() -> None:
    every = neutral_names(4900)
    assert len(set(every)) == 4900
    assert all(len(name) == 4 and name.isalpha() for name in every)
    assert neutral_names(32) == every[:32]
    with pytest.raises(ValueError, match="4900"):
        neutral_names(4901)
