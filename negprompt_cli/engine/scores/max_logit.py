"""Maximum logit: the highest cosine.

    S(f) = max_i <P_i,f>

Hendrycks et al., "Scaling out-of-distribution detection for real-world settings", ICML 2022. The logit scale is left out,
because it would not change the ranking. Scores are in [-1, 1]. `max_logit` uses the learned positive prompts,
`max_logit_zero_shot` the zero-shot prompts.
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock


def max_logit(block: ImageBlock) -> Tensor:
    """Return (B,) scores over the positive prompts."""
    return block.highest("positives")


def max_logit_zero_shot(block: ImageBlock) -> Tensor:
    """Return (B,) scores over the zero-shot prompts."""
    return block.highest("zero_shot")
