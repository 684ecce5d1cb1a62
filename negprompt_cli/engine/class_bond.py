"""How closely negatives are bound to their own class.

A context shared by all classes moves every prompt in the same direction. The negatives of all classes can then collapse
into one point, which carries no information about any class. Plain cosines do not reveal this, because all prompts of a
model share most of their direction. The functions here therefore subtract the mean over classes first: what remains
distinguishes the classes.

Notation: k classes, p negatives per class, P (k, F) positive and N (k, p, F) negative prompt features, L2-normalised.
N_ij and P_i are compared after subtracting their means over i.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_contrast(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the scalar 1 - mean over i, j of cos(N_ij - mean_i N_ij, P_i - mean_i P_i), in [0, 2]; 0 if k = 1.

    Args:
        positives: (k, F) L2-normalised.
        negatives: (k, p, F) L2-normalised.
    """
    if len(positives) == 1:
        return negatives.new_zeros(())
    return 1 - F.cosine_similarity(_centred(negatives), _centred(positives)[:, None], dim=-1).mean()


def own_class_share(positives: Tensor, negatives: Tensor) -> float:
    """Share of negatives (k, p, F) whose nearest positive, after centring, is that of their own class; in [0, 1]."""
    own = F.normalize(_centred(positives), dim=-1)
    cosines = torch.einsum("ipf,kf->ipk", F.normalize(_centred(negatives), dim=-1), own)
    return float((cosines.argmax(-1) == torch.arange(len(own), device=own.device)[:, None]).double().mean())


def cosine_between_classes(negatives: Tensor) -> float | None:
    """Mean cosine between negatives (k, p, F) of different classes, in [-1, 1]; None if k = 1."""
    classes, count, _ = negatives.shape
    if classes == 1:
        return None
    # The squared norm of the sum is the sum over all pairs; pairs within a class are subtracted.
    sums = negatives.double().sum(1)
    pairs = sums.sum(0).square().sum() - sums.square().sum()
    return float(pairs) / (classes * (classes - 1) * count**2)


def _centred(prompts: Tensor) -> Tensor:
    return prompts - prompts.mean(0, keepdim=True)
