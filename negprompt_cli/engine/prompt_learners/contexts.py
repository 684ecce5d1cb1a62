"""Where context vectors start.

Positive contexts start from words or at random (CoOp, Zhou et al., IJCV 2022: N(0, 0.02^2)); negative contexts start as
copies of the positive one plus noise, far enough apart that diversity has something to act on: copies 1e-5 apart, as in
the official code, stay identical to the end. Leaves out: contexts behind the class name.
"""

import torch
from torch import Tensor

RANDOM_STD = 0.02
"""Standard deviation of a random context, CoOp's value and that of CLIP's own token embeddings."""


def random_context(length: int, width: int, *, generator: torch.Generator) -> Tensor:
    """Draw M = `length` vectors of `width` from N(0, 0.02^2): (M, D)."""
    return torch.randn(length, width, generator=generator) * RANDOM_STD


def positive_context(start: Tensor, *, classes: int | None = None) -> Tensor:
    """Shape a start (M, D) as the one context set of stage 1: (1, M, D), or (1, K, M, D) when class-specific."""
    context = start[None] if classes is None else start.expand(1, classes, *start.shape)
    return context.clone()


def negative_contexts(positive: Tensor, count: int, *, noise: float, generator: torch.Generator) -> Tensor:
    """Make p = `count` negative contexts around a positive one.

    Args:
        positive: (1, M, D) or (1, K, M, D).
        count: negatives per class.
        noise: standard deviation of the Gaussian noise added, in the units of token embeddings.
        generator: a CPU generator.

    Returns:
        (p, M, D) or (p, K, M, D), on the device of `positive`.
    """
    shape = (count, *positive.shape[1:])
    return positive + noise * torch.randn(shape, generator=generator).to(positive)
