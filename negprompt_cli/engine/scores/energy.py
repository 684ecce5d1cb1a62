"""Energy score: the negative free energy of the logits s <P_i,f>.

    S(f) = log sum_i exp(s <P_i,f>)

Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020, with their temperature T = 1. The logits include
the model's logit scale s, as in training. The temperature of the softmax scores is not used.
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock


def energy(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    return block.log_sum_exp("positives", block.setup.bank.logit_scale)
