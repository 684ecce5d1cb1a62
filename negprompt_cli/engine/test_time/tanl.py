"""TANL's idea: only the words that OOD images of this very stream activate are negative words.

    S(f) = mean_{m = 1..M} share(f; the first m words)
    words are ranked by the mean of p(w | f) over suspected OOD images minus its mean over suspected ID images

share is NegLabel's: the softmax mass of the K names among the names and those words. p(w | f) is the probability of w in a
softmax over all names and words. Whether an image is suspected is judged by its S: beyond half the way from a threshold to 1
it is ID, below half the threshold OOD. The threshold parts all scores so far with the least variance within the two parts
(Otsu). The ranks come from the last Q suspected images of each kind; before any are, from the class names as ID, and as OOD
from an image that is like all texts alike.

"TANL", CVPR 2026, as independent notes and its code at github.com/YBZh/OpenOOD-VLM have it, with its M = 1000 and Q = 300.
Differences: one image at a time in place of batches; an image's own probabilities are not used for its own ranks; the code
starts its OOD queue from images of noise. In (0, 1).
"""

from collections import deque

import torch
from torch import Tensor

from negprompt_cli.engine.test_time.stream import Stream, is_foreign, is_known

WORDS = 1000
QUEUE = 300
STEPS = 100
"""Thresholds that are tried, at equal distances from 0."""


def tanl(stream: Stream, *, most: int = WORDS, queue: int = QUEUE) -> Tensor:
    """Return (N,) float64 scores of the images in their order; `most` is M and `queue` Q."""
    scale, k, count = stream.logit_scale, len(stream.names), min(most, len(stream.words))
    names = scale * (stream.names @ stream.texts.T).double()
    alike = names.new_full((1, len(stream.words)), 1 / len(stream.texts))
    known, foreign = _Queue(names.softmax(1)[:, k:], queue), _Queue(alike, queue)
    threshold = _Threshold()
    scores = torch.empty(len(stream.features), dtype=torch.float64)
    ranked = None
    for i, (_, cosines) in enumerate(stream):
        if ranked is None:
            ranked = (foreign.mean - known.mean).topk(count).indices
        logits = scale * cosines.double()
        masses = logits[k:][ranked].logcumsumexp(0)
        share = float((logits[:k].logsumexp(0) - masses).sigmoid().mean())
        scores[i] = share
        limit = threshold.after(share)
        if is_known(share, limit) or is_foreign(share, limit):
            (known if share > limit else foreign).add(logits.softmax(0)[k:])
            ranked = None
    return scores


class _Queue:
    """The last `most` rows (W,) of activations, and their mean."""

    def __init__(self, start: Tensor, most: int) -> None:
        self._most, self._rows = most, deque(start[-most:].unbind())
        self._sum = torch.stack(list(self._rows)).sum(0)

    @property
    def mean(self) -> Tensor:
        """(W,)."""
        return self._sum / len(self._rows)

    def add(self, row: Tensor) -> None:
        """Add a row; the oldest leaves where there are too many."""
        self._rows.append(row)
        self._sum = self._sum + row
        if len(self._rows) > self._most:
            self._sum = self._sum - self._rows.popleft()


class _Threshold:
    """Otsu's threshold of all values in [0, 1] so far, from counts, sums and squares between the thresholds tried."""

    def __init__(self) -> None:
        self._sums = torch.zeros(3, STEPS, dtype=torch.float64)

    def after(self, value: float) -> float:
        """The threshold after one more value: the middle one of the best; 0.5 where one value parts from no other."""
        step = min(int(value * STEPS), STEPS - 1)
        self._sums[:, step] += torch.tensor([1.0, value, value * value], dtype=torch.float64)
        low = self._sums.cumsum(1)[:, :-1]
        high = self._sums.sum(1, keepdim=True) - low
        within = sum(s2 - s1.square() / n.clamp(min=1) for n, s1, s2 in (low, high))
        assert isinstance(within, Tensor)
        within = torch.where((low[0] > 0) & (high[0] > 0), within, torch.inf)
        lowest = within.min()
        if not bool(lowest.isfinite()):
            return 0.5
        best = (within <= lowest + 1e-12).nonzero()[:, 0]
        return (int(best[len(best) // 2]) + 1) / STEPS
