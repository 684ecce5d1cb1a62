"""Images whose label is doubtful: their nearest class prompt and their nearest other images agree on another class.

Two witnesses must agree. The prompts' class is the nearest positive prompt. The neighbours' class is that of most of the k
nearest other images by cosine, so an image's own label never speaks for it. Prompts that were trained on an image have seen
its label; for such an image the first witness is biased towards the label, and a doubt weighs all the more. The idea of
ranking by how far another class is ahead is that of confident learning (Northcutt, Jiang and Chuang, JAIR 2021); its
class-wise calibration is left out, because cosines of one model are comparable between classes.

Cost is linear in the number of images: neighbours are looked up for the most doubtful candidates only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 10
MOST = 500
"""Candidates whose neighbours are looked up."""
BLOCK = 4096
"""Images compared at a time."""


@dataclass(frozen=True)
class Doubt:
    """A doubtful label: the place of the image, the class it looks like, how much nearer that is, and who agrees."""

    image: int
    suggested: int
    margin: float
    agreeing: int
    neighbours: int


@torch.no_grad()
def label_doubts(features: Tensor, labels: Tensor, positives: Tensor, *, most: int = MOST) -> list[Doubt]:
    """Find images whose label both witnesses contradict, the largest margin first.

    Args:
        features: (N, F) L2-normalised image features.
        labels: (N,) int64 classes.
        positives: (K, F) L2-normalised positive prompt features.
        most: candidates to look at, those with the largest margins.

    Returns:
        Doubts; empty where there are fewer than two images.
    """
    count = min(NEIGHBOURS, len(features) - 1)
    if count < 1:
        return []
    best, margins = [], []
    for part, own in zip(features.split(BLOCK), labels.split(BLOCK), strict=True):
        cosines = part @ positives.T
        highest = cosines.max(dim=1)
        best.append(highest.indices)
        margins.append(highest.values - cosines.gather(1, own[:, None])[:, 0])
    suggested, margin = torch.cat(best), torch.cat(margins)
    candidates = torch.nonzero(suggested != labels)[:, 0]
    candidates = candidates[margin[candidates].argsort(descending=True, stable=True)[:most]]
    found = []
    for part in candidates.split(64):
        cosines = features[part] @ features.T
        cosines[torch.arange(len(part)), part] = -torch.inf
        agreeing = (labels[cosines.topk(count, dim=1).indices] == suggested[part, None]).sum(dim=1)
        found += [
            Doubt(int(i), int(suggested[i]), float(margin[i]), int(votes), count)
            for i, votes in zip(part.tolist(), agreeing.tolist(), strict=True)
            if 2 * votes > count
        ]
    return found
