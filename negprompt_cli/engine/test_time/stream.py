"""A stream of test images and its cosines with names and words."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 256
"""Number of images multiplied with all texts at a time; scores do not depend on it."""


@dataclass(frozen=True, eq=False)
class Stream:
    """N images in test order, with the names and words they are compared with.

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
        """Yield each image (D,) and its cosines (K + W,) with the names and the words, in test order."""
        texts = self.texts
        for block in self.features.split(BLOCK):
            yield from zip(block, block @ texts.T, strict=True)

    def share_of_names(self, logits: Tensor) -> Tensor:
        """NegLabel without groups: the softmax mass (...) of the K names among (..., K + W) logits, in (0, 1)."""
        k = len(self.names)
        return (logits[..., :k].logsumexp(-1) - logits[..., k:].logsumexp(-1)).sigmoid()


def surely_id(share: float, threshold: float) -> bool:
    """Whether an image is surely ID: its share of names is more than halfway from the threshold to 1."""
    return share > threshold + GAP * (1 - threshold)


def surely_ood(share: float, threshold: float) -> bool:
    """Whether an image is surely OOD: its share of names is below half the threshold."""
    return share < threshold - GAP * threshold


GAP = 0.5
"""An image counts as sure from this fraction of the way from the threshold to 1 or 0; the value of both papers' code."""
