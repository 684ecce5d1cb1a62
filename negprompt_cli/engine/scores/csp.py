"""Conjugated semantic pool: NegLabel with phrases such as "dotted object" among its words.

    S(f) = mean_g sum_i exp(s <Z_i,f>) / (sum_i exp(s <Z_i,f>) + sum_{w in group g} exp(s <w,f>))

The words w are nouns and phrases "adjective superclass", both chosen far from the class names. Chen, Gao, Xu: "Conjugated
semantic pool improves OOD detection with pre-trained vision-language models", NeurIPS 2024. A phrase is a cluster centre of
many unlike things, which OOD images are near more often than to one rare noun. In (0, 1).
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock
from negprompt_cli.engine.scores.neglabel import share_of_names

SUPERCLASSES = (
    *("area", "creature", "environment", "item", "landscape", "object", "pattern"),
    *("place", "scene", "space", "structure", "thing", "view", "vista"),
)
"""Words for anything that can be seen; each adjective gets one at random. [unverified]: whether they are the paper's."""


def csp(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    return share_of_names(block, "csp_words")
