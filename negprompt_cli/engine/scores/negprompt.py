"""NegPrompt's score: MCM extended by the negative prompts.

    S(f) = max_i exp(<P_i,f>/tau) / (sum_i exp(<P_i,f>/tau) + sum_ij exp(<N_ij,f>/tau))

Li et al., "Learning transferable negative prompts for out-of-distribution detection", CVPR 2024; tau = 1 on cosines as
in the official code. In (0, 1).
"""

import torch
from torch import Tensor

from negprompt_cli.engine.scores.block import Block


def negprompt(block: Block) -> Tensor:
    """Return (B,) scores of the block's images."""
    inverse = 1 / block.setup.temperature
    everything = torch.logaddexp(block.log_sum_exp("positives", inverse), block.log_sum_exp("negatives", inverse))
    return (inverse * block.highest("positives").to(everything.dtype) - everything).exp()
