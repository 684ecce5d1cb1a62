"""NegLabel: the share of the zero-shot positives in a softmax over positives and many negative words.

    S(f) = mean_g sum_i exp(s <Z_i,f>) / (sum_i exp(s <Z_i,f>) + sum_{w in group g} exp(s <w,f>))

Jiang et al., "Negative label guided OOD detection with pretrained vision-language models", ICLR 2024, at CLIP's own logit
scale s (the paper's temperature 0.01 is that of OpenAI's models). The words are cut into groups of equal size in their
order, so the caller shuffles them first. Remaining words are dropped, as in the official code. Scores are in (0, 1).

The words are chosen beforehand (`word_choice`). Each way to choose them has its own score:

    neglabel            far from the class names, as in the paper
    neglabel-images     far from what ID images look like: InterNeg, CVPR 2026, without its texts made of test images
    neglabel-filtered   far from the class names, without proper names (WordNet's instances) and subclasses of ID classes:
                        NegRefine (Ansari et al., ICCV 2025) with WordNet in place of a language model; its score for
                        images with several things is `neglabel_pairs`
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock, log_sum_exp
from negprompt_cli.errors import UsageError


def neglabel(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images, with words far from the class names."""
    return share_of_names(block, "words")


def neglabel_images(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images, with words far from ID images."""
    return share_of_names(block, "words_by_images")


def neglabel_filtered(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images, with words filtered by WordNet."""
    return share_of_names(block, "words_filtered")


def share_of_names(block: ImageBlock, group: str) -> Tensor:
    """Return (B,): the softmax mass of the zero-shot positives, averaged over the groups of words.

    Args:
        block: the images.
        group: the field of `ScoreInputs` that has the words.

    Raises:
        UsageError: there are fewer words than groups.
    """
    scale, groups = block.setup.bank.logit_scale, block.setup.options.word_groups
    cosines = block.cosines(group)
    length = cosines.shape[1] // groups
    if length == 0:
        raise UsageError(f"{cosines.shape[1]} negative words are too few for {groups} groups. Lower word_groups.")
    grouped = cosines[:, : groups * length].unflatten(1, (groups, length))
    negatives = log_sum_exp(grouped, scale, highest=grouped.amax(dim=-1), exact=block.setup.exact)
    positives = block.log_sum_exp("zero_shot", scale)[:, None]
    return (positives - negatives).sigmoid().mean(dim=1)
