"""What is said about single images, against loops in float64; and that it takes one product with each group of prompts."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from negprompt_cli.engine.judge import judge
from negprompt_cli.engine.judgement import prompt_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs

K, P, D, SCALE = 5, 3, 16, 20.0


def drawn(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


def bank(*, negatives: bool = True) -> ScoreInputs:
    return ScoreInputs(drawn(K, seed=0), drawn(K, P, seed=1) if negatives else None, drawn(K, seed=2), SCALE)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten.mm.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_class_probability_and_nearest_negative_are_those_of_loops(kind: torch.dtype) -> None:
    images, prompts = drawn(40, seed=3), bank()
    judged = judge(images.to(kind), prompts, "max-logit")
    assert prompts.negatives is not None and judged.negatives is not None and judged.similarities is not None
    positives, negatives = prompts.positives.double().tolist(), prompts.negatives.double().tolist()
    for i, image in enumerate(images.double().tolist()):
        cosines = [float(np.dot(image, p)) for p in positives]
        best = max(range(K), key=cosines.__getitem__)
        terms = [math.exp(SCALE * c) for c in cosines]
        far = {(k, j): float(np.dot(image, negatives[k][j])) for k in range(K) for j in range(P)}
        nearest = max(far, key=far.__getitem__)
        assert judged.predictions[i] == best
        assert judged.probabilities[i] == pytest.approx(terms[best] / math.fsum(terms), rel=1e-5)
        assert judged.scores[i] == pytest.approx(cosines[best], abs=1e-6)
        assert tuple(judged.negatives[i]) == nearest
        assert judged.similarities[i] == pytest.approx(far[nearest], abs=1e-6)


@pytest.mark.parametrize("score", prompt_scores())
def test_images_are_multiplied_once_with_each_group_of_prompts(score: str) -> None:
    images, prompts = drawn(40, seed=3), bank()
    with Products() as products:
        judge(images, prompts, score)
    groups = {"positives", "negatives"} | ({"zero_shot"} if score.endswith("zero-shot") else set())
    assert products.count == len(groups)


def test_there_may_be_no_negatives_and_no_images() -> None:
    judged = judge(drawn(4, seed=3), bank(negatives=False), "mcm")
    assert judged.negatives is None and judged.similarities is None
    empty = judge(drawn(4, seed=3)[:0], bank(), "negprompt")
    assert empty.predictions.shape == empty.probabilities.shape == empty.scores.shape == (0,)
    assert empty.negatives is not None and empty.negatives.shape == (0, 2)
