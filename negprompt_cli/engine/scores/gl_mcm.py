"""Global and local maximum concept matching: MCM of the image plus the best MCM of a patch.

    S(f) = mcm(f) + w max_r mcm(f_r),  f_r the feature of patch r

Miyai et al., "GL-MCM: global and local maximum concept matching for zero-shot out-of-distribution detection", IJCV 2025
(w = 1 in its first version). It is computed with the learned positive prompts, as in LoCoOp. Scores are in (0, 1 + w].
"""

import torch
from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock


def gl_mcm(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images.

    Raises:
        ValueError: the block has no local features.
    """
    if block.local_features is None:
        raise ValueError("gl-mcm needs local features")
    images, patches, _ = block.local_features.shape
    # In this block each patch is an image: (B * R, D).
    local = ImageBlock(block.setup, block.local_features.flatten(0, 1), None)
    best_patch = local.log_max_softmax("positives").view(images, patches).amax(dim=1)
    weight = block.setup.options.local_weight
    return torch.add(block.log_max_softmax("positives").exp(), best_patch.exp(), alpha=weight)
