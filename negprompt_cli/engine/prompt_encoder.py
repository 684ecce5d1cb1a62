"""Contexts in, prompt features out: the one place that knows paths, chunks and memory.

The encoder is built once for a list of class names and called at every training step with the current contexts. It splits
the classes into chunks whose activations fit a budget. If everything fits, autograd keeps the activations; if not, each
chunk is recomputed in the backward pass (`torch.utils.checkpoint`), so that memory is bounded by one chunk whatever the
number of classes, at the price of a second forward. A chunk that does not fit the device after all is halved, once for
good, and said.

Leaves out: sharding classes over several processes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from negprompt_cli.engine.shared_prefix import Ragged, encode_shared_prefix
from negprompt_cli.engine.spliced import encode_spliced
from negprompt_cli.engine.tokens import PromptTokens
from negprompt_cli.engine.towers import TowerPlan

FLOATS_PER_TOKEN_AND_LAYER = 24
"""Activations autograd keeps for one token in one block, in units of the tower's width.

Measured: norms 2, queries to values 3, attention and its weights about 4, the four-fold hidden layer before and after its
activation 8, residuals 2; rounded up because allocators hold more than they hand out."""


@dataclass(frozen=True)
class _Chunk:
    """Classes encoded together: their indices, and on the prefix path their token layout."""

    classes: tuple[int, ...]
    sequences: Ragged | None


class PromptEncoder:
    """Encodes prompts of K classes for any contexts; call it with (C, M, D) to get (C, K, F), L2-normalised.

    Args:
        model: the frozen open_clip model.
        plan: how its text tower is run.
        tokens: the K prompts.
        device: where the model is.
        budget: bytes that the activations of one call may take.
        notice: called with one line when a chunk had to be made smaller.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: TowerPlan,
        tokens: PromptTokens,
        *,
        device: torch.device,
        budget: int = 2**30,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._model, self._plan, self._tokens = model, plan, tokens
        self._device, self._budget, self._notice = device, budget, notice
        self._layouts: dict[tuple[int, bool], tuple[list[_Chunk], bool]] = {}

    @property
    def tokens(self) -> PromptTokens:
        """The prompts this encoder was built for."""
        return self._tokens

    def __call__(self, contexts: Tensor) -> Tensor:
        """Encode all classes with C contexts.

        Args:
            contexts: (C, M, D) shared by the classes, or (C, K, M, D) with one per class.

        Returns:
            (C, K, F) L2-normalised text features, differentiable with respect to `contexts`.
        """
        while True:
            try:
                return self._encode(contexts)
            except torch.OutOfMemoryError:
                self.shrink()

    def shrink(self) -> None:
        """Halve the budget after the device ran out of memory.

        Raises:
            torch.OutOfMemoryError: the budget is already too small for a single class.
        """
        if self._budget < 2**20:
            raise torch.OutOfMemoryError("not even one class's prompts fit the device")
        self._budget //= 2
        self._layouts.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._notice:
            self._notice(f"out of memory: text is now encoded in chunks of at most {self._budget / 2**20:.0f} MiB")

    def _encode(self, contexts: Tensor) -> Tensor:
        own = contexts.dim() == 4
        chunks, recompute = self._chunks(contexts.shape[0], contexts.shape[-2] if own else 0)
        learning = torch.is_grad_enabled() and contexts.requires_grad
        parts = []
        for chunk in chunks:
            if learning and recompute:
                parts.append(checkpoint(self._encode_chunk, contexts, chunk, use_reentrant=False))
            else:
                parts.append(self._encode_chunk(contexts, chunk))
        features = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        places = torch.tensor([c for chunk in chunks for c in chunk.classes], device=features.device)
        return F.normalize(features[:, torch.argsort(places)], dim=-1)

    def _encode_chunk(self, contexts: Tensor, chunk: _Chunk) -> Tensor:
        """(C, M, D) or (C, K, M, D) to (C, n, F) for the n classes of a chunk."""
        causal = self._plan.causal
        if causal is None or chunk.sequences is None:
            return encode_spliced(self._model, self._plan, self._tokens, contexts, chunk.classes)
        start = causal.token_embedding(torch.tensor(self._tokens.start, device=contexts.device, dtype=torch.long))
        start = start.expand(contexts.shape[0], -1, -1)
        if contexts.dim() == 3:
            return encode_shared_prefix(causal, torch.cat([start, contexts], dim=1), chunk.sequences)
        # One context per class: only the start token is shared, and each ending is its context and its name.
        embedded = causal.token_embedding(chunk.sequences.ids)
        pieces: list[Tensor] = []
        count, token = contexts.shape[-2], 0
        for place in chunk.sequences.order.tolist():
            behind = len(self._tokens.rest[chunk.classes[place]])
            names = embedded[token + count : token + count + behind].expand(contexts.shape[0], -1, -1)
            pieces += [contexts[:, chunk.classes[place]], names]
            token += count + behind
        return encode_shared_prefix(causal, start, chunk.sequences, torch.cat(pieces, dim=1))

    def _chunks(self, contexts: int, own: int) -> tuple[list[_Chunk], bool]:
        """Split the classes for C contexts, `own` of whose vectors belong to each class; say whether to recompute."""
        key = (contexts, bool(own))
        if key not in self._layouts:
            prefix = self._plan.path == "prefix"
            lengths = [n + own for n in self._tokens.lengths()]
            if not prefix:
                lengths = [self._plan.context_length] * len(lengths)
            order = sorted(range(len(lengths)), key=lengths.__getitem__)
            per_token = contexts * self._bytes_per_token()
            recompute = per_token * sum(lengths) > self._budget
            groups: list[list[int]] = [[]]
            used = 0
            for c in order:
                if groups[-1] and used + lengths[c] * per_token > self._budget:
                    groups.append([])
                    used = 0
                groups[-1].append(c)
                used += lengths[c] * per_token
            filler = (0,) * own
            chunks = [
                _Chunk(
                    tuple(g), Ragged.of([filler + self._tokens.rest[c] for c in g], self._device) if prefix else None
                )
                for g in groups
            ]
            self._layouts[key] = (chunks, recompute)
        return self._layouts[key]

    def _bytes_per_token(self) -> int:
        layers = len(self._plan.causal.blocks) if self._plan.causal else 12
        return FLOATS_PER_TOKEN_AND_LAYER * self._plan.width * max(layers, 1) * 4
