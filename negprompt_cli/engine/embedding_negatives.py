"""Negatives learned as embeddings, without a text tower: N_ij = normalise(P_i + d_j) with offsets d_j shared by all classes.

An offset shared by class embeddings corresponds to a context shared by prompts, so learned offsets can be applied to new
classes. Training minimises stage 2's loss (`losses`) and takes seconds. It has two uses: learning from precomputed features
of any CLIP, and measuring how negatives work on classes they were not trained on (`scores.id_statistics`).

The optimiser is Adam (Kingma and Ba, ICLR 2015) on all images at once. Its step size is a multiple of 1 / sqrt(D), the
typical size of a coordinate of a unit vector, so it suits every dimension D. The offsets with the lowest loss are kept.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.errors import NegPromptError

STEPS = 60
STEP = 0.45
"""Adam's step size and the standard deviation of the initial offsets, in units of 1 / sqrt(D)."""
MOST_IMAGES, MOST_CLASSES = 1000, 250
"""The loss uses at most this many images and classes, drawn at random: few parameters are learned, so these suffice."""


def negatives_of(positives: Tensor, offsets: Tensor) -> Tensor:
    """(K, p, D) negatives of positives (K, D) and offsets (p, D), L2-normalised."""
    return normalize(positives[:, None] + offsets, dim=-1)


def learn_offsets(
    images: Tensor, labels: Tensor, positives: Tensor, *, scale: float, loss: NegativeLoss, negatives: int, seed: int
) -> Tensor:
    """Learn the offsets of negatives from ID images.

    Args:
        images: (N, D) L2-normalised features of ID images.
        labels: (N,) their classes.
        positives: (K, D) L2-normalised class embeddings.
        scale: CLIP's logit scale.
        loss: stage 2's loss.
        negatives: p, negatives per class.
        seed: random seed for the initial offsets and for drawing images and classes.

    Returns:
        (p, D) offsets.

    Raises:
        NegPromptError: the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    dimension = positives.shape[1]
    step = STEP / math.sqrt(dimension)
    offsets = (step * torch.randn(negatives, dimension, generator=generator)).to(positives).requires_grad_()
    if len(images) > MOST_IMAGES:
        chosen = torch.randperm(len(images), generator=generator)[:MOST_IMAGES].to(images.device)
        images, labels = images[chosen], labels[chosen]
    seen = positives
    if len(positives) > MOST_CLASSES and not loss.needs_labels:
        seen = positives[torch.randperm(len(positives), generator=generator)[:MOST_CLASSES].to(positives.device)]
    optimiser = torch.optim.Adam([offsets], lr=step)
    best, lowest = offsets.detach().clone(), math.inf
    for number in range(STEPS + 1):
        value = loss(images, labels, seen, negatives_of(seen, offsets), scale)["loss"]
        reached = float(value.detach())
        if not math.isfinite(reached):
            raise NegPromptError(f"The loss of the negatives is {reached} at step {number}: a feature is not finite.")
        if reached < lowest:
            best, lowest = offsets.detach().clone(), reached
        if number < STEPS:
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    return best
