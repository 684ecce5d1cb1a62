"""TANL: only the words that OOD images of this stream activate are used as negative words.

    S(f) = mean_{m = 1..M} share(f; the first m words)
    words are ranked by the mean of p(w | f) over suspected OOD images minus its mean over suspected ID images

share is NegLabel's score: the softmax mass of the K names among the names and the first m words. p(w | f) is the probability
of w in a softmax over all names and words. An image is suspected to be ID if its S is more than halfway from a threshold to
1, and suspected to be OOD if S is below half the threshold. The threshold is Otsu's: it splits all scores so far into two
parts with the lowest variance within the parts. The ranking uses the last Q suspected images of each kind. At the start, the
class names serve as ID images, and one image that is equally similar to all texts serves as OOD.

Source: "TANL", CVPR 2026, from independent notes and its code at github.com/YBZh/OpenOOD-VLM, with its M = 1000 and Q = 300.
Differences: images are processed one at a time instead of in batches; the ranking for an image does not use its own
probabilities; the published code starts its OOD queue with noise images. Scores are in (0, 1).
"""

from collections import deque

import torch
from torch import Tensor

from negprompt_cli.engine.test_time.stream import Stream, surely_id, surely_ood

WORDS = 1000
QUEUE = 300
STEPS = 100
"""Number of steps between 0 and 1 at which thresholds are tried."""


def tanl(stream: Stream, *, most: int = WORDS, queue: int = QUEUE) -> Tensor:
    """Return (N,) float64 scores of the images in stream order; `most` is M and `queue` is Q."""
    scale, k, count = stream.logit_scale, len(stream.names), min(most, len(stream.words))
    names = scale * (stream.names @ stream.texts.T).double()
    uniform = names.new_full((1, len(stream.words)), 1 / len(stream.texts))
    suspected_id, suspected_ood = _Queue(names.softmax(1)[:, k:], queue), _Queue(uniform, queue)
    threshold = _Threshold()
    scores = torch.empty(len(stream.features), dtype=torch.float64)
    ranked = None
    for i, (_, cosines) in enumerate(stream):
        if ranked is None:
            ranked = (suspected_ood.mean - suspected_id.mean).topk(count).indices
        logits = scale * cosines.double()
        masses = logits[k:][ranked].logcumsumexp(0)
        share = float((logits[:k].logsumexp(0) - masses).sigmoid().mean())
        scores[i] = share
        limit = threshold.after(share)
        if surely_id(share, limit) or surely_ood(share, limit):
            (suspected_id if share > limit else suspected_ood).add(logits.softmax(0)[k:])
            ranked = None
    return scores


class _Queue:
    """The last `most` rows (W,) of activations, and their mean."""

    def __init__(self, start: Tensor, most: int) -> None:
        self._most, self._rows = most, deque(start[-most:].unbind())
        self._sum = torch.stack(list(self._rows)).sum(0)

    @property
    def mean(self) -> Tensor:
        """(W,) the mean of the rows."""
        return self._sum / len(self._rows)

    def add(self, row: Tensor) -> None:
        """Add a row (W,) and drop the oldest one if there are more than `most`."""
        self._rows.append(row)
        self._sum = self._sum + row
        if len(self._rows) > self._most:
            self._sum = self._sum - self._rows.popleft()


class _Threshold:
    """Otsu's threshold of all values in [0, 1] so far, from the count, sum and sum of squares in each of `STEPS` bins."""

    def __init__(self) -> None:
        self._sums = torch.zeros(3, STEPS, dtype=torch.float64)

    def after(self, value: float) -> float:
        """Add a value and return the threshold: the middle one of the best, or 0.5 while all values share one bin."""
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
