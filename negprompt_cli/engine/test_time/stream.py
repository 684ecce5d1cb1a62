"""A stream of test images, compared with names and words."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 256
"""Images that are multiplied with all texts at a time; no score depends on it."""


@dataclass(frozen=True, eq=False)
class Stream:
    """N images in the order in which they are tested.

    Attributes:
        features: (N, D) L2-normalised image features.
        names: (K, D) zero-shot features of the class names.
        words: (W, D) features of negative words.
        logit_scale: s, CLIP's logit scale.
    """

    features: Tensor
    names: Tensor
    words: Tensor
    logit_scale: float

    @property
    def texts(self) -> Tensor:
        """(K + W, D): the names, then the words."""
        return torch.cat([self.names, self.words])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each image (D,) with its cosines (K + W,) with the names and the words, in order."""
        texts = self.texts
        for block in self.features.split(BLOCK):
            yield from zip(block, block @ texts.T, strict=True)

    def share_of_names(self, logits: Tensor) -> Tensor:
        """NegLabel without groups: the share (...) that the names have of the softmax over (..., K + W) logits."""
        k = len(self.names)
        return (logits[..., :k].logsumexp(-1) - logits[..., k:].logsumexp(-1)).sigmoid()


def is_known(share: float, threshold: float) -> bool:
    """Whether an image whose names have this share is surely ID: beyond half the way from the threshold to 1."""
    return share > threshold + GAP * (1 - threshold)


def is_foreign(share: float, threshold: float) -> bool:
    """Whether it is surely OOD: below half the threshold."""
    return share < threshold - GAP * threshold


GAP = 0.5
"""How far from the threshold towards 1 or 0 an image is believed; both papers' code has this value."""
