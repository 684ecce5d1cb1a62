"""How firmly negatives belong to their own class: by what they share with its positive, apart from what all classes share.

A context that all classes share moves every prompt the same way, so negatives of different classes can become one point, and
then say nothing of any class. Cosines of prompts do not show it, since prompts of one model share most of their direction.
What is left after the mean over classes is what tells the classes apart.

Notation: k classes, p negatives per class, P (k, F) positive and N (k, p, F) negative prompt features, L2-normalised;
N_ij and P_i less their means over i are compared.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_contrast(positives: Tensor, negatives: Tensor) -> Tensor:
    """1 - mean over i, j of cos(N_ij - mean_i N_ij, P_i - mean_i P_i), in [0, 2]; 0 where there is one class."""
    if len(positives) == 1:
        return negatives.new_zeros(())
    return 1 - F.cosine_similarity(_centred(negatives), _centred(positives)[:, None], dim=-1).mean()


def own_class_share(positives: Tensor, negatives: Tensor) -> float:
    """Share of the negatives whose own positive is the nearest by the cosine of what tells classes apart, in [0, 1]."""
    own = F.normalize(_centred(positives), dim=-1)
    cosines = torch.einsum("ipf,kf->ipk", F.normalize(_centred(negatives), dim=-1), own)
    return float((cosines.argmax(-1) == torch.arange(len(own), device=own.device)[:, None]).double().mean())


def cosine_between_classes(negatives: Tensor) -> float | None:
    """Mean cosine of negatives (k, p, F) of two different classes, in [-1, 1]; None where there is one class."""
    classes, count, _ = negatives.shape
    if classes == 1:
        return None
    # The sum over all pairs is the squared norm of the sum; pairs within a class are taken off.
    sums = negatives.double().sum(1)
    pairs = sums.sum(0).square().sum() - sums.square().sum()
    return float(pairs) / (classes * (classes - 1) * count**2)


def _centred(prompts: Tensor) -> Tensor:
    return prompts - prompts.mean(0, keepdim=True)
