"""AdaNeg: confident test images are stored with their nearest name or word and adapt its feature.

    S(f) = share(s <t_c, f>) + lambda share(s <v_c(f), f>),   v_c(f) = normalise(sum_m exp(-beta (1 - <m, f>)) m)

share is NegLabel's score: the softmax mass of the K names among names and words t_c. The sum over m includes t_c and the
test images stored with c, at most L. Before it is scored, an image with share > 0.75 is stored with its nearest name and an
image with share < 0.25 with its nearest word, as in the published code. If c already has L images, the new image replaces
the one with the highest entropy over names (or words), provided that its own entropy is lower.

Source: Zhang et al., "AdaNeg: adaptive negative proxy guided OOD detection with vision-language models", NeurIPS 2024, with
lambda = 0.1, beta = 5.5 and L = 10 from its code. Differences: words are not grouped, and images are processed one at a time
instead of in batches of 256. Scores are in (0, 1.1).
"""

import torch
from torch import Tensor

from negprompt_cli.engine.test_time.stream import Stream, surely_id, surely_ood

WEIGHT = 0.1
SHARPNESS = 5.5
MEMORY = 10
THRESHOLD = 0.5


def adaneg(stream: Stream, *, most: int = MEMORY) -> Tensor:
    """Return (N,) float64 scores of the images in stream order; `most` is L."""
    scale, k = stream.logit_scale, len(stream.names)
    memory = _Memory(stream.texts, most)
    scores = torch.empty(len(stream.features), dtype=torch.float64)
    for i, (image, cosines) in enumerate(stream):
        logits = scale * cosines.double()
        share = float(stream.share_of_names(logits))
        if surely_id(share, THRESHOLD):
            memory.keep(image, int(logits[:k].argmax()), _entropy(logits[:k]))
        elif surely_ood(share, THRESHOLD):
            memory.keep(image, k + int(logits[k:].argmax()), _entropy(logits[k:]))
        adapted = scale * memory.adapted(image, cosines).double()
        scores[i] = share + WEIGHT * float(stream.share_of_names(adapted))
    return scores


def _entropy(logits: Tensor) -> float:
    log_p = logits.log_softmax(0)
    return -float((log_p.exp() * log_p).sum())


class _Memory:
    """The names and words, features (C, D), and for each at most `most` stored images.

    The length of a proxy follows from the inner products of its text and images. These change only when an image is stored,
    so they are cached. Empty rows are zero and add nothing to sums.
    """

    def __init__(self, texts: Tensor, most: int) -> None:
        self._texts, self._most = texts, most
        self._owners: list[int] = []
        self._place: dict[int, int] = {}
        self._entropies: list[list[float]] = []
        self._parts = texts.new_zeros(16, most + 1, texts.shape[1])
        """(U, most + 1, D): for each of U names or words in use its text, then its images."""
        self._products = texts.new_zeros(16, most + 1, most + 1)

    def keep(self, image: Tensor, owner: int, entropy: float) -> None:
        """Store an image (D,) with name or word `owner`, if there is room or a stored image has higher entropy."""
        if owner not in self._place:
            self._add(owner)
        place = self._place[owner]
        entropies = self._entropies[place]
        if len(entropies) < self._most:
            entropies.append(entropy)
            part = len(entropies)
        else:
            worst = max(range(self._most), key=lambda i: entropies[i])
            if entropy >= entropies[worst]:
                return
            entropies[worst] = entropy
            part = worst + 1
        self._put(image, place, part)

    def adapted(self, image: Tensor, cosines: Tensor) -> Tensor:
        """Return (C,) cosines of an image (D,) with the proxies; `cosines` (C,) are its cosines with the texts."""
        used = len(self._owners)
        if not used:
            return cosines
        near = self._parts[:used] @ image
        weights = (near - 1).mul(SHARPNESS).exp()
        lengths = torch.einsum("ua,uab,ub->u", weights, self._products[:used], weights).sqrt()
        owners = torch.tensor(self._owners, device=cosines.device)
        return cosines.index_copy(0, owners, (weights * near).sum(1) / lengths)

    def _add(self, owner: int) -> None:
        place = len(self._owners)
        if place == len(self._parts):
            self._parts = torch.cat([self._parts, torch.zeros_like(self._parts)])
            self._products = torch.cat([self._products, torch.zeros_like(self._products)])
        self._owners.append(owner)
        self._place[owner] = place
        self._entropies.append([])
        self._put(self._texts[owner], place, 0)

    def _put(self, feature: Tensor, place: int, part: int) -> None:
        self._parts[place, part] = feature
        products = self._parts[place] @ feature
        self._products[place, part] = products
        self._products[place, :, part] = products
