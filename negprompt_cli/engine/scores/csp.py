"""Conjugated semantic pool: NegLabel with phrases such as "dotted object" among its words.

    S(f) = mean_g sum_i exp(s <Z_i,f>) / (sum_i exp(s <Z_i,f>) + sum_{w in group g} exp(s <w,f>))

The words w are nouns and phrases "adjective superclass", both chosen far from the class names. A phrase covers many
different things, so OOD images are near a phrase more often than near a rare noun. Scores are in (0, 1).
Source: Chen, Gao, Xu: "Conjugated semantic pool improves OOD detection with pre-trained vision-language models", NeurIPS
2024.
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock
from negprompt_cli.engine.scores.neglabel import share_of_names

SUPERCLASSES = (
    *("area", "creature", "environment", "item", "landscape", "object", "pattern"),
    *("place", "scene", "space", "structure", "thing", "view", "vista"),
)
"""General words for visible things. Each adjective is combined with a random one. They are those of NegRefine's code,
which takes CSP's."""


def csp(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    return share_of_names(block, "csp_words")
