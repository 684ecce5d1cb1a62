"""Find images whose label is doubtful, because the prompts and the other images agree on another class.

Confident learning (Northcutt, Jiang and Chuang, JAIR 2021) ranks labels by out-of-sample probabilities: by how much more
probable another class is than the given one. Two sources give these probabilities here:

    prompts   softmax(s <P_k, f>) with the positives P_k and the logit scale s. Prompts that were trained on the image are
              biased towards its label, so their doubt is strong evidence
    images    softmax(10 cos(f - m, c_k)), where m is the mean of all images and c_k the mean of f' - m over the other
              images of class k: a closed-form, leave-one-out linear probe

A label is doubtful if both sources rank the same other class first, and its probability in the normalised product of both
is more than 0.99 above that of the given class. The constants 10 and 0.99 were chosen on ID images with planted errors:
with 5 % of the labels of tiny-imagenet changed (lite-clip, 64-pixel images, 20 and 200 classes), 50 to 64 % of the doubtful
labels were changed ones, and 36 to 64 % of the changed labels were found. The class-wise thresholds of confident learning
found no more.

The package cleanlab implements confident learning for any classifier. It is not used, because its licence is the AGPL and
it depends on pandas.

Time and memory are linear in the number of images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

MEANS_SCALE = 10.0
LEAST_MARGIN = 0.99
BLOCK = 4096


@dataclass(frozen=True)
class Doubt:
    """A doubtful label: the image's index, the class it looks like, and how much more probable that class is, up to 1."""

    image: int
    suggested: int
    margin: float


@torch.no_grad()
def label_doubts(
    features: Tensor,
    labels: Tensor,
    positives: Tensor,
    *,
    scale: float,
    least: float = LEAST_MARGIN,
    block: int = BLOCK,
) -> list[Doubt]:
    """Find images whose label both sources contradict, sorted by falling margin.

    Args:
        features: (N, F) L2-normalised image features.
        labels: (N,) int64 classes.
        positives: (K, F) L2-normalised positive prompt features.
        scale: CLIP's logit scale s.
        least: smallest margin of a doubtful label, in [0, 1).
        block: number of images compared at a time.

    Returns:
        The doubtful labels. An image that is the only one of its class is never among them, because no other image could
        confirm its label.
    """
    classes = len(positives)
    mean = features.mean(dim=0)
    sums, counts = features.new_zeros(positives.shape), labels.bincount(minlength=classes)
    for part, own in zip(features.split(block), labels.split(block), strict=True):
        sums += one_hot(own, classes).to(part.dtype).T @ normalize(part - mean, dim=-1)
    directions = normalize(sums, dim=-1)
    found = []
    for start in range(0, len(features), block):
        part, own = features[start : start + block], labels[start : start + block]
        moved, rows = normalize(part - mean, dim=-1), torch.arange(len(part))
        by_prompts, by_images = scale * (part @ positives.T), MEANS_SCALE * (moved @ directions.T)
        others = normalize(sums[own] - moved, dim=-1)
        by_images[rows, own] = MEANS_SCALE * (moved * others).sum(dim=1)
        suggested = by_prompts.argmax(dim=1)
        probabilities = torch.softmax((by_prompts + by_images).double(), dim=1)
        margins = probabilities[rows, suggested] - probabilities[rows, own]
        agree = (by_images.argmax(dim=1) == suggested) & (suggested != own) & (counts[own] > 1)
        for i in torch.nonzero(agree & (margins > least))[:, 0].tolist():
            found.append(Doubt(start + i, int(suggested[i]), float(margins[i])))
    return sorted(found, key=lambda doubt: -doubt.margin)
