"""AdaNeg's idea: test images that are surely ID or surely OOD are kept for their nearest name or word, and pull it to them.

    S(f) = share(s <t_c, f>) + lambda share(s <v_c(f), f>),   v_c(f) = normalise(sum_m exp(-beta (1 - <m, f>)) m)

share is NegLabel's: the softmax mass of the K names among names and words t_c. m runs over t_c and the test images kept for
c, at most L of them. An image with share > 0.75 is kept for its nearest name, one with share < 0.25 for its nearest word,
before it is scored itself, as in the published code; where c has L images, it takes the place of the one with the highest
entropy over names (words) if its own is lower. Zhang et al., "AdaNeg: adaptive negative proxy guided OOD detection with
vision-language models", NeurIPS 2024, with its code's lambda = 0.1, beta = 5.5, L = 10. Differences: no groups of words, and
one image at a time in place of batches of 256. In (0, 1.1).
"""

import torch
from torch import Tensor

from negprompt_cli.engine.test_time.stream import Stream, is_foreign, is_known

WEIGHT = 0.1
SHARPNESS = 5.5
MEMORY = 10
THRESHOLD = 0.5


def adaneg(stream: Stream, *, most: int = MEMORY) -> Tensor:
    """Return (N,) float64 scores of the images in their order; `most` is L."""
    texts, scale, k = stream.texts, stream.logit_scale, len(stream.names)
    memory = _Memory(texts, most)
    scores = torch.empty(len(stream.features), dtype=torch.float64)
    for i, image in enumerate(stream.features):
        cosines = texts @ image
        logits = scale * cosines.double()
        share = float(stream.share_of_names(logits))
        if is_known(share, THRESHOLD):
            memory.keep(image, int(logits[:k].argmax()), _entropy(logits[:k]))
        elif is_foreign(share, THRESHOLD):
            memory.keep(image, k + int(logits[k:].argmax()), _entropy(logits[k:]))
        adapted = scale * memory.adapted(image, cosines).double()
        scores[i] = share + WEIGHT * float(stream.share_of_names(adapted))
    return scores


def _entropy(logits: Tensor) -> float:
    log_p = logits.log_softmax(0)
    return -float((log_p.exp() * log_p).sum())


class _Memory:
    """Images kept for names and words (C, D): at most `most` for each."""

    def __init__(self, texts: Tensor, most: int) -> None:
        self._texts, self._most = texts, most
        self._images = texts.new_empty(64, texts.shape[1])
        self._owner = torch.empty(64, dtype=torch.long, device=texts.device)
        """Of each image, the place of its name or word among `_owners`."""
        self._count = 0
        self._owners: list[int] = []
        self._place: dict[int, int] = {}
        self._kept: dict[int, list[tuple[float, int]]] = {}
        """By name or word, entropy and row of its images."""

    def keep(self, image: Tensor, owner: int, entropy: float) -> None:
        """Keep an image (D,) for a name or word, where there is room or another is less sure."""
        kept = self._kept.setdefault(owner, [])
        if len(kept) == self._most:
            worst = max(range(len(kept)), key=lambda i: kept[i][0])
            highest, row = kept[worst]
            if entropy >= highest:
                return
            kept[worst] = entropy, row
        else:
            if self._count == len(self._images):
                self._images = torch.cat([self._images, torch.empty_like(self._images)])
                self._owner = torch.cat([self._owner, torch.empty_like(self._owner)])
            row = self._count
            self._count += 1
            if owner not in self._place:
                self._place[owner] = len(self._owners)
                self._owners.append(owner)
            self._owner[row] = self._place[owner]
            kept.append((entropy, row))
        self._images[row] = image

    def adapted(self, image: Tensor, cosines: Tensor) -> Tensor:
        """(C,) cosines of an image with the proxies; `cosines` (C,) are those with the texts."""
        if not self._owners:
            return cosines
        owners = torch.tensor(self._owners, device=cosines.device)
        images, place = self._images[: self._count], self._owner[: self._count]
        near = images @ image
        weights, own = _weight(near), _weight(cosines[owners])
        proxies = own[:, None] * self._texts[owners]
        proxies.index_add_(0, place, weights[:, None] * images)
        along = (own * cosines[owners]).index_add(0, place, weights * near)
        return cosines.index_copy(0, owners, along / torch.linalg.vector_norm(proxies, dim=1))


def _weight(cosines: Tensor) -> Tensor:
    return (cosines - 1).mul(SHARPNESS).exp()
