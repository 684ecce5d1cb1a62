"""NegPrompt's score, MCM extended by the negative prompts, and the same with floors under its two masses.

Write P(f) = sum_i exp(<P_i,f>/tau) and N(f) = sum_ij exp(<N_ij,f>/tau) for the masses of positives and negatives.

    plain     S(f) = max_i exp(<P_i,f>/tau) / (P(f) + N(f))
    floored   S(f) = max_i exp((<P_i,f>-1)/tau) / (max(1, P(f)/P(m)) / 2 + max(1, N(f)/N(m)) / 2)^kappa

The plain score is the paper's (Li et al., "Learning transferable negative prompts for out-of-distribution detection",
CVPR 2024; tau = 1 on cosines as in the official code). Both are in (0, 1].

The floors are our own. At tau = 1 a mass is nearly linear in f, so the plain score ranks images by their highest cosine
and by one fixed direction, along which an image can lie beyond ID images on either side; the side of little mass is
rewarded, wrongly. m is the mean of the ID training features, so P(m) and N(m) are what is usual for an ID image: a mass
counts only above that, and where neither does, the score is max-logit. Measured against m, a mass depends neither on the
number of prompts nor on which classes are named, so floors follow transferred prompts without new images.
"""

import math

import torch
from torch import Tensor

from negprompt_cli.engine.scores.block import Block


def negprompt(block: Block) -> Tensor:
    """Return (B,) scores of the block's images: floored where the bank has a mean ID image, else plain."""
    setup = block.setup
    inverse = 1 / setup.temperature
    masses = [block.log_sum_exp(group, inverse) for group in ("positives", "negatives")]
    highest = inverse * block.highest("positives").to(setup.exact)
    if setup.bank.image_mean is None:
        return (highest - torch.logaddexp(*masses)).exp()
    usual = [setup.usual_mass(group) for group in ("positives", "negatives")]
    excess = [(mass - floor).clamp(min=0) for mass, floor in zip(masses, usual, strict=True)]
    return (highest - inverse - setup.bank.exponent * (torch.logaddexp(*excess) - math.log(2))).exp()
