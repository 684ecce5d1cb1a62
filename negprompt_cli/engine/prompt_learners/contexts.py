"""Initial values of context vectors.

Positive contexts start from words or at random (CoOp, Zhou et al., IJCV 2022: N(0, 0.02^2)). Negative contexts start as
copies of the positive one plus noise. The noise must be large enough for the diversity term to separate them: the
official code's copies, which differ by 1e-5, remain identical. The context is always before the class name.
"""

import torch
from torch import Tensor

RANDOM_STD = 0.02
"""Standard deviation of a random context. CoOp uses this value, and CLIP's token embeddings have it too."""


def random_context(length: int, width: int, *, generator: torch.Generator) -> Tensor:
    """Draw M = `length` vectors of size D = `width` from N(0, 0.02^2): (M, D)."""
    return torch.randn(length, width, generator=generator) * RANDOM_STD


def positive_context(start: Tensor, *, classes: int | None = None) -> Tensor:
    """Shape an initial context (M, D) for stage 1: (1, M, D), or (1, K, M, D) with K = `classes` copies."""
    context = start[None] if classes is None else start.expand(1, classes, *start.shape)
    return context.clone()


def negative_contexts(positive: Tensor, count: int, *, noise: float, generator: torch.Generator) -> Tensor:
    """Make p = `count` negative contexts: copies of a positive one plus noise.

    Args:
        positive: (1, M, D) or (1, K, M, D).
        count: negatives per class.
        noise: standard deviation of the added Gaussian noise, in the units of token embeddings.
        generator: a CPU generator.

    Returns:
        (p, M, D) or (p, K, M, D), on the device of `positive`.
    """
    shape = (count, *positive.shape[1:])
    return positive + noise * torch.randn(shape, generator=generator).to(positive)
