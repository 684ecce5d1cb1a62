"""NegPrompt's score, MCM extended by the negative prompts, and the same with floors under its two masses.

Write P(f) = sum_i exp(<P_i,f>/tau) and N(f) = sum_ij exp(<N_ij,f>/tau) for the masses of positives and negatives.

    plain     S(f) = max_i exp(<P_i,f>/tau) / (P(f) + N(f))
    floored   S(f) = exp((b(f)-1)/tau) / (max(1, P(f)/P(m)) / 2 + max(1, N(f)/N(m)) / 2)^kappa
              b(f) = log(mean_i exp(s <P_i,f>)) / s, or the highest <P_i,f>

The plain score is the paper's (Li et al., "Learning transferable negative prompts for out-of-distribution detection",
CVPR 2024; tau = 1 on cosines as in the official code). Both are in (0, 1].

The base b is the energy score (Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020) at CLIP's own
temperature 1/s, a soft maximum: an image that resembles several classes equally is surer to be ID than one that is as near
to a single class only. As a mean, not a sum, it does not depend on the number of classes either.

The floors are our own. At tau = 1 a mass is nearly linear in f, so the plain score ranks images by their highest cosine
and by one fixed direction, along which an image can lie beyond ID images on either side; the side of little mass is
rewarded, wrongly. m is the mean of the ID training features, so P(m) and N(m) are what is usual for an ID image: a mass
counts only above that, and where neither does, the score is the base alone. Measured against m, a mass depends neither on
the number of prompts nor on which classes are named, so floors follow transferred prompts without new images.
"""

import math

import torch
from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock


def mcm_extended(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images: floored where the bank has a mean ID image, else plain."""
    setup = block.setup
    inverse = 1 / setup.temperature
    masses = [block.log_sum_exp(group, inverse) for group in ("positives", "negatives")]
    bank = setup.bank
    highest = block.highest("positives").to(setup.exact)
    if bank.image_mean is None:
        return (inverse * highest - torch.logaddexp(*masses)).exp()
    if bank.base == "energy":
        base = (block.log_sum_exp("positives", bank.logit_scale) - math.log(len(bank.positives))) / bank.logit_scale
    else:
        base = highest
    usual = [setup.usual_mass(group) for group in ("positives", "negatives")]
    excess = [(mass - floor).clamp(min=0) for mass, floor in zip(masses, usual, strict=True)]
    return (inverse * (base - 1) - bank.exponent * (torch.logaddexp(*excess) - math.log(2))).exp()
