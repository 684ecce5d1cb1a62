"""NegLabel: the share of the zero-shot positives in a softmax over positives and many negative words.

    S(f) = mean_g sum_i exp(<Z_i,f>/tau) / (sum_i exp(<Z_i,f>/tau) + sum_{w in group g} exp(<w,f>/tau))

Jiang et al., "Negative label guided OOD detection with pretrained vision-language models", ICLR 2024. Groups are runs of
equal length in the order of the words, which the caller shuffles if need be; words left over are dropped, as in the
official code. Left out: choosing the words (the paper's NegMining). In (0, 1).
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock, log_sum_exp
from negprompt_cli.errors import UsageError


def neglabel(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    inverse, groups = 1 / block.setup.temperature, block.setup.options.word_groups
    cosines = block.cosines("words")
    length = cosines.shape[1] // groups
    if length == 0:
        raise UsageError(f"neglabel cannot split {cosines.shape[1]} words into {groups} groups: lower word_groups.")
    grouped = cosines[:, : groups * length].unflatten(1, (groups, length))
    negatives = log_sum_exp(grouped, inverse, highest=grouped.amax(dim=-1), exact=block.setup.exact)
    positives = block.log_sum_exp("zero_shot", inverse)[:, None]
    return (positives - negatives).sigmoid().mean(dim=1)
