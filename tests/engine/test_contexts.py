"""Where contexts start: shapes, spread, and that only the given generator draws."""

import pytest
import torch
from random_world import seeded

from negprompt_cli.engine.prompt_learners.contexts import (
    RANDOM_STD,
    negative_contexts,
    positive_context,
    random_context,
)


def test_random_contexts_have_the_stated_spread() -> None:
    context = random_context(16, 4096, generator=seeded())
    assert context.shape == (16, 4096)
    assert float(context.mean()) == pytest.approx(0, abs=4 * RANDOM_STD / (16 * 4096) ** 0.5)
    assert float(context.std()) == pytest.approx(RANDOM_STD, rel=0.02)
    assert torch.equal(context, random_context(16, 4096, generator=seeded()))
    assert not torch.equal(context, random_context(16, 4096, generator=seeded(1)))


def test_positive_contexts() -> None:
    start = torch.randn(4, 8, generator=seeded())
    shared = positive_context(start)
    assert torch.equal(shared, start[None])
    own = positive_context(start, classes=3)
    assert own.shape == (1, 3, 4, 8)
    assert all(torch.equal(own[0, k], start) for k in range(3))
    # Each class's copy is its own memory, and so is the shared one.
    own[0, 0] += 1
    shared += 1
    assert torch.equal(own[0, 1], start)


@pytest.mark.parametrize("shape", [(1, 4, 512), (1, 10, 4, 512)])
def test_negative_contexts_surround_the_positive(shape: tuple[int, ...]) -> None:
    positive = torch.randn(shape, generator=seeded())
    negatives = negative_contexts(positive, 3, noise=0.05, generator=seeded(1))
    assert negatives.shape == (3, *shape[1:])
    noise = negatives - positive
    assert float(noise.std()) == pytest.approx(0.05, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert (negatives[0] - negatives[1]).abs().max() > 0.05
    assert torch.equal(negatives, negative_contexts(positive, 3, noise=0.05, generator=seeded(1)))


def test_negatives_without_noise_are_copies() -> None:
    positive = torch.randn(1, 4, 8, generator=seeded())
    assert torch.equal(negative_contexts(positive, 2, noise=0.0, generator=seeded()), positive.expand(2, -1, -1))


def test_negatives_keep_the_number_format_of_the_positive() -> None:
    positive = torch.randn(1, 4, 8, generator=seeded(), dtype=torch.float64)
    assert negative_contexts(positive, 2, noise=0.1, generator=seeded()).dtype == torch.float64
