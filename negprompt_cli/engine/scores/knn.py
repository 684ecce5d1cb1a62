"""Deep nearest neighbours: the negative distance to the k-th nearest ID training feature.

    S(f) = -||f - t_(k)||

Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022, by exhaustive search. In [-2, 0].
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock
from negprompt_cli.errors import UsageError


def knn(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images.

    Raises:
        UsageError: there are fewer training images than neighbours.
    """
    k = block.setup.options.neighbours
    train = block.setup.bank.rows("train_features")
    if k > len(train):
        raise UsageError(
            f"knn with {k} neighbours needs at least {k} training images, but there are {len(train)}. Lower neighbours."
        )
    neighbour = block.cosines("train_features").topk(k, dim=1).indices[:, -1]
    # The nearest unit vectors have the highest cosines; sqrt(2 - 2 cosine) would lose small distances to rounding.
    difference = block.features.to(block.setup.exact) - train[neighbour].to(block.setup.exact)
    return difference.square().sum(dim=1).sqrt().neg()
