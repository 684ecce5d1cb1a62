"""Choose negative words that are far from the class names or far from ID images.

    by distance   d(w) = 5 % percentile over the classes of -<w, Z_i>; the words with the highest d are kept
    by images     d(w) = mean_i (<Z_i, e_i> - <w, e_i>), e_i the normalised mean image of class i; only words with
                  <w, e_i> < <Z_i, e_i> for every class i are allowed, and those with the highest d are kept

w is the feature of a word, Z_i that of a class name, both in the same template. The first way is NegMining (Jiang et al.,
"Negative label guided OOD detection with pretrained vision-language models", ICLR 2024, section 3.2). The second is
InterNeg's, after its published code (Xu et al., "Mind the way you select negative texts: pursuing the distance consistency
in OOD detection with VLMs", CVPR 2026). It compares texts with images only, which is what CLIP was trained for.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

PERCENTILE = 0.05
"""Eta of NegMining. It is low, so that a word counts as near if only a few class names are near."""
_ROWS = 4096


def name_distances(words: Tensor, classes: Tensor) -> Tensor:
    """Return (W,): the distance of each word from the class names; higher means farther.

    Args:
        words: (W, D) L2-normalised.
        classes: (K, D) L2-normalised.
    """
    return torch.cat([torch.quantile(-(part @ classes.T), PERCENTILE, dim=1) for part in words.split(_ROWS)])


def image_distances(words: Tensor, classes: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return (W,): the distance of each word from ID images.

    It is minus infinity for a word that is at least as near to the images of a class as the name of that class.

    Args:
        words: (W, D) L2-normalised.
        classes: (K, D) L2-normalised.
        images: (T, D) L2-normalised images.
        labels: (T,) their classes, in [0, K); classes without images are ignored.
    """
    present, place = labels.unique(return_inverse=True)
    means = torch.zeros(len(present), images.shape[1], dtype=images.dtype, device=images.device)
    means = normalize(means.index_add_(0, place, images), dim=1)
    own = (classes[present] * means).sum(dim=1)
    parts = []
    for part in words.split(_ROWS):
        margins = own - part @ means.T
        parts.append(torch.where((margins > 0).all(dim=1), margins.mean(dim=1), -torch.inf))
    return torch.cat(parts)


def farthest(distances: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` highest finite distances (W,), highest first; fewer if there are not so many."""
    order = distances.argsort(descending=True, stable=True)
    return order[distances[order].isfinite()][:count]
