"""Entropy score: the negative entropy of the class probabilities.

    S(f) = sum_i p_i log p_i,  p = softmax_i(<P_i,f>/tau)

Chan et al., "Entropy maximization and meta classification for out-of-distribution detection in semantic segmentation",
ICCV 2021. Scores are in [-log K, 0]. At tau = 1 all images score close to -log K. To avoid cancellation, the sum is
computed as the weighted mean minus the log-sum-exp of the exponents (cosine - highest cosine) / tau.
"""

import torch
from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock
from negprompt_cli.engine.scores.row_sums import row_sums


def entropy(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    exact = block.setup.exact
    exponents = torch.sub(block.cosines("positives"), block.highest("positives")[:, None])
    exponents.div_(block.setup.temperature)
    weights = exponents.exp()
    total = row_sums(weights, exact=exact)
    mean = row_sums(exponents.mul_(weights), exact=exact) / total
    return mean - total.log()
