"""The losses against slow loops written straight from their formulas, in float64, and their gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine import losses
from negprompt_cli.engine.losses import NegativeLoss

SCALE = 14.3
B, K, D = 5, 4, 6


def unit(*shape: int, seed: int) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


IMAGES = unit(B, D, seed=0)
LABELS = torch.tensor([0, 3, 3, 1, 2])
POSITIVES = unit(K, D, seed=1)


def negatives_of(count: int) -> Tensor:
    return unit(K, count, D, seed=2)


def cosine(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


# One loop per term. f ranges over images, i over classes, j and l over the negatives of a class.


def slow_positive(negatives: Tensor) -> float:
    total = 0.0
    for f, label in zip(IMAGES, LABELS, strict=True):
        exps = [math.exp(SCALE * cosine(p, f)) for p in POSITIVES]
        total -= math.log(exps[label] / sum(exps))
    return total / B


def slow_separation(negatives: Tensor) -> float:
    terms = [math.log1p(math.exp(SCALE * cosine(n, f))) for f in IMAGES for row in negatives for n in row]
    return sum(terms) / len(terms)


def slow_uniform(negatives: Tensor) -> float:
    total = 0.0
    for f in IMAGES:
        exps = [math.exp(SCALE * cosine(n, f)) for row in negatives for n in row]
        total += sum(-math.log(e / sum(exps)) / len(exps) for e in exps)
    return total / B


def slow_soft_margin(negatives: Tensor) -> float:
    """Target 1 for the positive and all negatives of the true class, mean over prompts, then over images."""
    total = 0.0
    for f, label in zip(IMAGES, LABELS, strict=True):
        terms = []
        for i in range(K):
            for prompt in [POSITIVES[i], *negatives[i]]:
                probability = 1 / (1 + math.exp(-SCALE * cosine(prompt, f)))
                terms.append(-math.log(probability if i == label else 1 - probability))
        total += sum(terms) / len(terms)
    return total / B


def slow_own_similarity(negatives: Tensor) -> float:
    terms = [cosine(n, POSITIVES[i]) for i, row in enumerate(negatives) for n in row]
    return sum(terms) / len(terms)


def slow_nnd_cosine(negatives: Tensor) -> float:
    count = negatives.shape[1]
    pairs = [cosine(row[j], row[m]) for row in negatives for j in range(count) for m in range(count) if j != m]
    return sum(pairs) / len(pairs) if pairs else 0.0


def slow_nnd_norm(negatives: Tensor) -> float:
    norms = []
    for row in negatives:
        mean = [sum(float(n[d]) for n in row) / len(row) for d in range(D)]
        norms.append(math.sqrt(sum(x * x for x in mean)))
    return sum(norms) / K - 1


TERMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], float]]] = {
    "positive": (lambda n: losses.positive_loss(IMAGES, LABELS, POSITIVES, SCALE), slow_positive),
    "separation": (lambda n: losses.nis_separation(IMAGES, n, SCALE), slow_separation),
    "uniform": (lambda n: losses.nis_uniform(IMAGES, n, SCALE), slow_uniform),
    "soft margin": (lambda n: losses.nis_soft_margin(IMAGES, LABELS, POSITIVES, n, SCALE), slow_soft_margin),
    "own similarity": (lambda n: losses.own_similarity(POSITIVES, n), slow_own_similarity),
    "nnd cosine": (losses.nnd_cosine, slow_nnd_cosine),
    "nnd norm": (losses.nnd_norm, slow_nnd_norm),
}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("term", TERMS)
def test_terms_equal_their_formulas(term: str, count: int) -> None:
    fast, slow = TERMS[term]
    assert float(fast(negatives_of(count))) == pytest.approx(slow(negatives_of(count)), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("term", [t for t in TERMS if t != "positive"])
def test_gradients_with_respect_to_negatives(term: str, count: int) -> None:
    negatives = negatives_of(count).requires_grad_()
    fast = TERMS[term][0]
    if not fast(negatives).requires_grad:
        assert (term, count) == ("nnd cosine", 1)
        return
    assert torch.autograd.gradcheck(fast, negatives)


def test_gradient_with_respect_to_positives() -> None:
    positives = POSITIVES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: losses.positive_loss(IMAGES, LABELS, p, SCALE), positives)


# What facts about the method say of the presets: L = NIS + beta * NPD + gamma * NND, with these terms and signs.
PRESETS: dict[str, tuple[Callable[[Tensor], float], float, Callable[[Tensor], float]]] = {
    "separation": (slow_separation, 1.0, slow_nnd_cosine),
    "quoted": (slow_uniform, -1.0, slow_nnd_cosine),
    "official": (slow_soft_margin, 1.0, slow_nnd_norm),
}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_weighted_sums_of_their_terms(name: str, count: int) -> None:
    nis, sign, nnd = PRESETS[name]
    negatives = negatives_of(count)
    terms = NegativeLoss(name, beta=0.3, gamma=0.7)(IMAGES, LABELS, POSITIVES, negatives, SCALE)
    expected = {"nis": nis(negatives), "npd": sign * slow_own_similarity(negatives), "nnd": nnd(negatives)}
    assert {k: float(v) for k, v in terms.items() if k != "loss"} == pytest.approx(expected, rel=1e-12, abs=1e-13)
    loss = expected["nis"] + 0.3 * expected["npd"] + 0.7 * expected["nnd"]
    assert float(terms["loss"]) == pytest.approx(loss, rel=1e-12)


def test_directions() -> None:
    """Stepping down each term moves negatives where its description says: away from images, towards or off positives."""

    def after_a_step(name: str, term: str) -> Tensor:
        negatives = negatives_of(2).requires_grad_()
        NegativeLoss(name, 1.0, 1.0)(IMAGES, LABELS, POSITIVES, negatives, SCALE)[term].backward()
        return normalize(negatives.detach() - 0.05 * negatives.grad, dim=-1)

    def to_images(n: Tensor) -> float:
        return float((n.flatten(0, 1) @ IMAGES.T).clamp(min=0).mean())

    start = negatives_of(2)
    assert to_images(after_a_step("separation", "nis")) < to_images(start)
    for name, nearer in (("separation", False), ("quoted", True), ("official", False)):
        moved = slow_own_similarity(after_a_step(name, "npd")) > slow_own_similarity(start)
        assert moved == nearer, name
        assert slow_nnd_cosine(after_a_step(name, "nnd")) < slow_nnd_cosine(start), name


@pytest.mark.parametrize("name", PRESETS)
def test_large_scales_and_identical_negatives_stay_finite(name: str) -> None:
    negatives = POSITIVES[:, None].expand(K, 3, D).float().clone().requires_grad_()
    terms = NegativeLoss(name, 0.1, 0.05)(IMAGES.float(), LABELS, POSITIVES.float(), negatives, 1000.0)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    assert torch.isfinite(negatives.grad).all()


@pytest.mark.parametrize("copies", [1, 3])
def test_forced_prompts_must_beat_copies_of_the_word_prompts(copies: int):
    anchors = torch.nn.functional.normalize(torch.flip(POSITIVES, [1]), dim=-1)
    total = 0.0
    for f, label in zip(IMAGES, LABELS.tolist(), strict=True):
        own = [math.exp(SCALE * float(p @ f)) for p in POSITIVES]
        plain = [math.exp(SCALE * float(a @ f)) for a in anchors]
        total -= math.log(own[label] / (sum(own) + copies * sum(plain))) / len(IMAGES)
    assert float(losses.forced_loss(IMAGES, LABELS, POSITIVES, anchors, SCALE, copies)) == pytest.approx(total)
    positives = POSITIVES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: losses.forced_loss(IMAGES, LABELS, p, anchors, SCALE, copies), positives)


def test_patches_that_do_not_show_the_class_are_to_be_like_no_class():
    patches, positives = unit(B, 3, D, seed=7), unit(10, D, seed=8)
    entropies = []
    for image, label in zip(patches, LABELS.tolist(), strict=True):
        for r in image:
            logits = [SCALE * cosine(p, r) for p in positives]
            # Two of ten classes are nearest.
            if label not in sorted(range(10), key=lambda i: -logits[i])[:2]:
                total = sum(math.exp(x) for x in logits)
                entropies.append(sum(math.exp(x) / total * math.log(math.exp(x) / total) for x in logits))
    assert 0 < len(entropies) < 15
    found = losses.patch_entropy(patches, LABELS, positives, SCALE)
    assert float(found) == pytest.approx(sum(entropies) / len(entropies))
    variable = positives.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: losses.patch_entropy(patches, LABELS, p, SCALE), variable)
    # A patch that shows its class has no part.
    shown = positives[LABELS][:, None]
    assert float(losses.patch_entropy(shown, LABELS, positives, SCALE)) == 0.0


def test_anchor_distance_is_the_mean_squared_distance_to_the_word_prompts():
    anchors = torch.nn.functional.normalize(torch.flip(POSITIVES, [1]), dim=-1)
    slow = 0.0
    for p, a in zip(POSITIVES.tolist(), anchors.tolist(), strict=True):
        slow += sum((x - y) ** 2 for x, y in zip(p, a, strict=True)) / len(POSITIVES)
    assert float(losses.anchor_distance(POSITIVES, anchors)) == pytest.approx(slow)
    assert float(losses.anchor_distance(POSITIVES, POSITIVES)) == 0.0
    positives = POSITIVES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: losses.anchor_distance(p, anchors), positives)
