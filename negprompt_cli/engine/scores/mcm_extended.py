"""NegPrompt's score, MCM extended by the negative prompts: the paper's form and the default form.

    paper     S(f) = max_i exp(<P_i,f>/tau) / (sum_i exp(<P_i,f>/tau) + sum_ij exp(<N_ij,f>/tau))
    default   S(f) = L(b) + L(b|p) + L(c) + L(g) + L(n|p + 1),   L(z) = log sigmoid(pi z / sqrt(3))

The paper's score (Li et al., "Learning transferable negative prompts for out-of-distribution detection", CVPR 2024; tau = 1
on cosines as in the official code) is in (0, 1]. It depends on how widely the cosines of a model spread, because that
decides the weight of each part.

The default compares an image with typical ID images. Each of its five statistics (`id_statistics` has their formulas) is in
units of the standard deviation of ID images. L(z) approximates the logarithm of the share of ID images below z, so the sum
is Fisher's method of combining one-sided tests. Four statistics measure whether the image fits the positives; the last one
measures whether it is unlike the negatives. An image at the ID mean of n|p is not suspicious, so 1 is added to that
statistic: in effect it only lowers scores. Scores are at most 0, higher = more ID.
"""

import torch
from torch import Tensor

from negprompt_cli.engine.scores.id_statistics import TERMS, IdStatistics, class_statistics, log_tail
from negprompt_cli.engine.scores.image_block import ImageBlock


def mcm_extended(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images: the default form if the bank has ID statistics, else the paper's form."""
    statistics = block.setup.bank.id_statistics
    return paper_score(block) if statistics is None else default_score(block, statistics)


def paper_score(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the paper's form, in (0, 1]."""
    inverse = 1 / block.setup.temperature
    masses = [block.log_sum_exp(group, inverse) for group in ("positives", "negatives")]
    highest = block.highest("positives").to(block.setup.exact)
    return (inverse * highest - torch.logaddexp(*masses)).exp()


def default_score(block: ImageBlock, statistics: IdStatistics) -> Tensor:
    """Return (B,) scores of the default form, at most 0."""
    exact = block.setup.exact
    cosines = block.cosines("positives")
    found = class_statistics(block.features, cosines, block.setup.class_view)
    found["n"] = -(block.features @ block.setup.mean_negative)
    p = cosines.mean(1)
    total = torch.zeros_like(p, dtype=exact)
    # Python numbers instead of tensors, so that an exporter writes them as constants.
    for name, (slope, center, deviation) in zip(TERMS, statistics.terms.tolist(), strict=True):
        if deviation > 0:
            z = (found[name.removesuffix("|p")] - slope * p - center).to(exact) / deviation
            total = total + log_tail(z + 1 if name == "n|p" else z)
    return total
