"""LogitGap: how far the highest cosine is above the next N.

    logit-gap      S(f) = max_i <P_i,f> - mean of the next N cosines, N a fifth of the classes
    logit-gap-fit  the same with the N that ID training images choose

Liang et al., "Revisiting logit distributions for reliable out-of-distribution detection", NeurIPS 2025, equations 8 to 10.
The logit scale would change no ranking. In [0, 2]; with one class there is no next one, and every score is 0.

The paper chooses N by the mean gap of ID images less that of synthetic OOD images, which it makes of ID features by
interpolation and noise, without saying how much of either. Here each is the normalised mean of two training images of
different classes plus normal noise as wide as the training images spread. Where all images are of one class, the pairs are
of any two images.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine.scores.image_block import ImageBlock

MOST_IMAGES = 1000
"""ID images that N is chosen by, at most; the paper takes 100."""


def logit_gap(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    return gaps(block, block.setup.options.next_classes or share_of(len(block.setup.bank.positives)))


def logit_gap_fit(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images, N chosen by the bank's training images."""
    setup = block.setup
    features, labels = setup.bank.train_features, setup.bank.train_labels
    if features is None or labels is None:
        raise ValueError("logit-gap-fit needs train_features and train_labels")
    count = setup.once("logit-gap-fit", lambda: fit_next_classes(features, labels, setup.bank.positives))
    return gaps(block, count)


def share_of(classes: int) -> int:
    """The paper's N: a fifth of the classes, at least 1."""
    return max(1, round(0.2 * classes))


def gaps(block: ImageBlock, count: int) -> Tensor:
    """Highest cosine minus the mean of the next `count`, or of all others where there are fewer: (B,); 0 with one class."""
    cosines, exact = block.cosines("positives"), block.setup.exact
    highest = block.highest("positives").to(exact)
    others = min(count, cosines.shape[1] - 1)
    if not others:
        return torch.zeros_like(highest)
    # Only their sum is wanted, so they need no order.
    total = cosines.topk(others + 1, dim=1, sorted=False).values.sum(dim=1, dtype=exact)
    return highest - (total - highest) / others


def fit_next_classes(features: Tensor, labels: Tensor, positives: Tensor) -> int:
    """Choose N in [1, K - 1] by the mean gap of ID images less that of synthetic OOD images.

    Args:
        features: (T, D) L2-normalised ID training images.
        labels: (T,) their classes.
        positives: (K, D).
    """
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(features), generator=generator)[:MOST_IMAGES]
    images = features.double().cpu()[chosen]
    foreign = mixed(images, labels.cpu()[chosen], generator=generator)
    texts = positives.double().cpu()
    return best_count(images @ texts.T, foreign @ texts.T)


def mixed(images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """(T, D) synthetic OOD images: each image with another, of another class where there is one, and noise.

    Args:
        images: (T, D) L2-normalised.
        labels: (T,).
        generator: a CPU generator.
    """
    others = labels[:, None] != labels
    others = torch.where(others.any(dim=1, keepdim=True), others, torch.ones_like(others))
    partner = torch.multinomial(others.double(), 1, generator=generator)[:, 0]
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype)
    spread = images.std(dim=0) if len(images) > 1 else torch.zeros_like(images[0])
    return normalize((images + images[partner]) / 2 + noise * spread, dim=1)


def best_count(known: Tensor, foreign: Tensor) -> int:
    """The N whose mean gap tells the two kinds of images best apart, the smallest of equals; 1 where K is 1.

    Args:
        known: (T, K) cosines of ID images.
        foreign: (U, K) cosines of synthetic OOD images.
    """
    if known.shape[1] == 1:
        return 1
    mean_known, mean_foreign = (c.sort(dim=1, descending=True).values.mean(dim=0) for c in (known, foreign))
    difference = mean_known - mean_foreign
    counts = torch.arange(1, len(difference), dtype=difference.dtype)
    return int((difference[0] - difference[1:].cumsum(0) / counts).argmax()) + 1
