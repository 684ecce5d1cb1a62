"""LogitGap: how far the highest cosine is above the next N.

    logit-gap      S(f) = max_i <P_i,f> - mean of the next N cosines, N a fifth of the classes
    logit-gap-fit  the same, with N chosen on ID training images

Liang et al., "Revisiting logit distributions for reliable out-of-distribution detection", NeurIPS 2025, equations 8 to 10.
The logit scale is left out, because it would not change the ranking. Scores are in [0, 2]. With one class there is no next
class, and every score is 0.

The paper chooses N by the mean gap of ID images minus that of synthetic OOD images. It makes these from ID features by
interpolation and noise, but does not state the amounts. Here a synthetic OOD image is the normalised mean of two training
images of different classes plus Gaussian noise with the standard deviation of the training images. If all images are of
one class, any two images are paired.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.engine.scores.image_block import ImageBlock
from negprompt_cli.engine.scores.row_sums import sum_of_highest

MOST_IMAGES = 1000
"""Most ID images that choose N; the paper uses 100."""


def logit_gap(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    return gaps(block, block.setup.options.next_classes or share_of(len(block.setup.bank.positives)))


def logit_gap_fit(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images, with N chosen on the bank's training images.

    Raises:
        ValueError: the bank has no training features or labels.
    """
    setup = block.setup
    features, labels = setup.bank.train_features, setup.bank.train_labels
    if features is None or labels is None:
        raise ValueError("logit-gap-fit needs train_features and train_labels")
    count = setup.once("logit-gap-fit", lambda: fit_next_classes(features, labels, setup.bank.positives))
    return gaps(block, count)


def share_of(classes: int) -> int:
    """Return the paper's N: a fifth of the classes, at least 1."""
    return max(1, round(0.2 * classes))


def gaps(block: ImageBlock, count: int) -> Tensor:
    """Return (B,): the highest cosine minus the mean of the next `count`, or of all others if there are fewer.

    With one class the gap is 0.
    """
    cosines, exact = block.cosines("positives"), block.setup.exact
    highest = block.highest("positives").to(exact)
    others = min(count, cosines.shape[1] - 1)
    if not others:
        return torch.zeros_like(highest)
    total = sum_of_highest(cosines, others + 1, exact=exact)
    return highest - (total - highest) / others


def fit_next_classes(features: Tensor, labels: Tensor, positives: Tensor) -> int:
    """Choose the N in [1, K - 1] with the largest mean gap of ID images minus that of synthetic OOD images; 1 if K = 1.

    Args:
        features: (T, D) L2-normalised ID training images.
        labels: (T,) their classes.
        positives: (K, D) L2-normalised.
    """
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(features), generator=generator)[:MOST_IMAGES]
    images = features.double().cpu()[chosen]
    synthetic = synthetic_ood(images, labels.cpu()[chosen], generator=generator)
    texts = positives.double().cpu()
    return best_count(images @ texts.T, synthetic @ texts.T)


def synthetic_ood(images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Make (T, D) synthetic OOD images: the mean of each image and one of another class, plus noise, L2-normalised.

    Args:
        images: (T, D) L2-normalised.
        labels: (T,) classes of the images; if there is only one class, partners are drawn from it.
        generator: a CPU generator.
    """
    others = labels[:, None] != labels
    others = torch.where(others.any(dim=1, keepdim=True), others, torch.ones_like(others))
    partner = torch.multinomial(others.double(), 1, generator=generator)[:, 0]
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype)
    spread = images.std(dim=0) if len(images) > 1 else torch.zeros_like(images[0])
    return normalize((images + images[partner]) / 2 + noise * spread, dim=1)


def best_count(id_cosines: Tensor, ood_cosines: Tensor) -> int:
    """Return the smallest N with the largest difference of mean gaps between ID and synthetic OOD images; 1 if K = 1.

    Args:
        id_cosines: (T, K) cosines of ID images.
        ood_cosines: (U, K) cosines of synthetic OOD images.
    """
    if id_cosines.shape[1] == 1:
        return 1
    mean_id, mean_ood = (c.sort(dim=1, descending=True).values.mean(dim=0) for c in (id_cosines, ood_cosines))
    difference = mean_id - mean_ood
    counts = torch.arange(1, len(difference), dtype=difference.dtype)
    return int((difference[0] - difference[1:].cumsum(0) / counts).argmax()) + 1
