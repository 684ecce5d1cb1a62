"""Negatives learned as embeddings, without a text tower: N_ij = normalise(P_i + d_j), the offsets d_j shared by all classes.

A shared offset is to embeddings what a shared context is to prompts, so offsets follow new class embeddings as contexts
follow new names. They are learned with stage 2's loss (`losses`), in seconds: for features of any CLIP that are at hand
without the model, and to see what becomes of classes that negatives never saw (`scores.id_statistics`).

The optimiser is Adam (Kingma and Ba, ICLR 2015) over all images at once. Its step is in units of the usual coordinate of a
unit vector, 1 / sqrt(D), so it means the same in every dimension; the step with the lowest loss is kept.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.errors import NegPromptError

STEPS = 60
STEP = 0.45
"""Of Adam and of the start, in units of 1 / sqrt(D)."""
MOST_IMAGES, MOST_CLASSES = 1000, 250
"""Images and classes that the loss looks at; of more, so many are drawn, since few numbers are learned."""


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
        seed: of the start, and of the choice where there are more images or classes than the loss looks at.

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
