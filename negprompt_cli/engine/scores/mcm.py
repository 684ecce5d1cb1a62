"""Maximum concept matching: the highest softmax probability of the cosines.

    S(f) = max_i exp(<P_i,f>/tau) / sum_i exp(<P_i,f>/tau)

Ming et al., "Delving into out-of-distribution detection with vision-language representations", NeurIPS 2022; tau = 1 on
cosines. Scores are in (0, 1]. `mcm` uses the learned positive prompts, `mcm_zero_shot` the zero-shot prompts, as in the
paper. `mcm_clip_temperature` is `mcm` at CLIP's own temperature 1/s with the logit scale s, which gives CLIP's probability
of the predicted class.
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock


def mcm(block: ImageBlock) -> Tensor:
    """Return (B,) scores over the positive prompts."""
    return block.log_max_softmax("positives").exp()


def mcm_zero_shot(block: ImageBlock) -> Tensor:
    """Return (B,) scores over the zero-shot prompts."""
    return block.log_max_softmax("zero_shot").exp()


def mcm_clip_temperature(block: ImageBlock) -> Tensor:
    """Return (B,) scores over the positive prompts at CLIP's own temperature."""
    return block.probability
