"""Encode contexts into prompt features within a memory budget.

The encoder is built once for a list of class names and called at every training step with the current contexts. It splits
the classes into chunks. Autograd keeps the activations of as many chunks as the budget allows; the activations of the other
chunks are recomputed in the backward pass (`torch.utils.checkpoint`). Memory is therefore bounded for any number of
classes, but classes beyond the budget need a second forward pass. If the device runs out of memory anyway, the budget is
halved permanently, with a notice.

`sharded_prompts` distributes classes over several processes.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from negprompt_cli.engine.allocator import return_free_memory
from negprompt_cli.engine.prompt_learners.shared_prefix import Packed, encode_shared_prefix
from negprompt_cli.engine.prompt_learners.spliced import encode_spliced
from negprompt_cli.engine.prompt_learners.tokens import PromptTokens
from negprompt_cli.engine.prompt_learners.towers import TowerPlan

FLOATS_PER_TOKEN_AND_LAYER = 14
"""Activations per token and block, in units of the tower's width.

In a frozen tower autograd keeps about 11: 2 for the inputs of the two norms, 1 for queries, 3 for keys and values with
those of the prefix, 1 for attention's output, and 4 for the hidden layer before its activation. The rest allows for
temporary tensors and for memory that allocators reserve."""

CHUNKS = 4
"""Smallest number of chunks that fill the budget. Chunks of equal size can reuse each other's memory. With one large kept
chunk and small recomputed ones the heap was fragmented, and the peak grew with the number of classes."""
MOST_CLASSES = 128
"""Largest number of classes in a chunk. Several processes share the chunks (see `sharded_prompts`). Matrix products of other
shapes round differently, so chunks must not depend on the number of processes; then the result does not either."""


T = TypeVar("T")


class Encoder(Protocol):
    """An encoder of the prompts of K classes: one `PromptEncoder`, or several of them on several devices."""

    @property
    def tokens(self) -> PromptTokens:
        """The K prompts."""

    def __call__(self, contexts: Tensor) -> Tensor:
        """Encode contexts (C, M, D) or (C, K, M, D) as (C, K, F) L2-normalised, differentiable features."""

    def subset(self, classes: Sequence[int]) -> "Encoder":
        """Return an encoder of n of the K classes, in the given order."""

    def shrink(self) -> None:
        """Use less memory from now on.

        Raises:
            torch.OutOfMemoryError: the encoder cannot use less.
        """


@dataclass(frozen=True)
class _Chunk:
    """Classes encoded together: their indices, their token layout (on the prefix path only), and their expected bytes."""

    classes: tuple[int, ...]
    sequences: Packed | None
    size: int


class PromptEncoder:
    """Encodes the prompts of K classes with any contexts: (C, M, D) or (C, K, M, D) to (C, K, F), L2-normalised.

    Args:
        model: the frozen open_clip model.
        plan: the encoding path of its text tower.
        tokens: the K prompts.
        device: the device of the model.
        budget: bytes that the activations of one call may take.
        notice: called with one line when memory ran out and the budget was halved.
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
        self._layouts: dict[tuple[int, ...], list[_Chunk]] = {}
        self._whole: PromptEncoder | None = None

    @property
    def tokens(self) -> PromptTokens:
        """The prompts this encoder was built for."""
        return self._tokens

    def subset(self, classes: Sequence[int]) -> "PromptEncoder":
        """Return an encoder of n of the K classes, in the given order; if it halves its budget, this encoder does too.

        Args:
            classes: indices from 0 to K - 1. Class-specific contexts are then (C, n, M, D), of these classes only.
        """
        tokens = self._tokens.subset(classes)
        part = PromptEncoder(
            self._model, self._plan, tokens, device=self._device, budget=self._budget, notice=self._notice
        )
        part._whole = self
        return part

    def __call__(self, contexts: Tensor) -> Tensor:
        """Encode all classes with C contexts.

        Args:
            contexts: (C, M, D) shared by the classes, or (C, K, M, D) class-specific.

        Returns:
            (C, K, F) L2-normalised text features, differentiable with respect to `contexts`.
        """
        return self._again_if_too_large(lambda: self._encode([contexts] * len(self._chunks(tuple(contexts.shape)))))

    def encode_apart(self, contexts: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encode all classes, each chunk with its own copy of the contexts, so that each chunk has its own gradient.

        Returns:
            The copies, which are leaves that require gradients, in the order of `chunked`; and the features (C, K, F).
        """

        def encode() -> tuple[list[Tensor], Tensor]:
            leaves = [contexts.detach().requires_grad_() for _ in self._chunks(tuple(contexts.shape))]
            return leaves, self._encode(leaves)

        return self._again_if_too_large(encode)

    def chunked(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the indices of the classes of each chunk, for contexts of a shape.

        A subset of whole chunks is split into the same chunks again, in the same order.
        """
        return [chunk.classes for chunk in self._chunks(shape)]

    def shrink(self) -> None:
        """Halve the budget after the device ran out of memory.

        Raises:
            torch.OutOfMemoryError: each chunk already has a single class.
        """
        chunks = [chunk for layout in self._layouts.values() for chunk in layout]
        if all(len(chunk.classes) == 1 for chunk in chunks):
            raise torch.OutOfMemoryError("the prompts of a single class do not fit into the device's memory")
        # Start from the memory that is used: half of a budget that was never filled would change nothing.
        used = max(sum(chunk.size for chunk in layout[-self._kept(layout) :]) for layout in self._layouts.values())
        self._budget = min(self._budget, used) // 2
        self._layouts.clear()
        if self._whole:
            self._whole._budget = self._budget
            self._whole._layouts.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._notice:
            self._notice(f"out of memory: text encoding now uses at most {self._budget / 2**20:.0f} MiB")

    def _again_if_too_large(self, encode: Callable[[], T]) -> T:
        while True:
            try:
                return encode()
            except torch.OutOfMemoryError:
                self.shrink()

    def _encode(self, contexts: Sequence[Tensor]) -> Tensor:
        """Encode each chunk with its contexts and return the features (C, K, F), L2-normalised."""
        learning = torch.is_grad_enabled() and contexts[0].requires_grad
        chunks = self._chunks(tuple(contexts[0].shape))
        parts = []
        first_kept = len(chunks) - self._kept(chunks)
        # Recomputed chunks reuse the same memory and fragment it, so it is trimmed; with few chunks this gains nothing.
        encode = self._encode_in_trimmed_memory if self._device.type == "cpu" and first_kept else self._encode_chunk
        # Kept chunks come last, so that the backward pass frees their activations before it recomputes those of others.
        for number, (own, chunk) in enumerate(zip(contexts, chunks, strict=True)):
            if learning and number < first_kept:
                parts.append(checkpoint(encode, own, chunk, use_reentrant=False))
            else:
                parts.append(encode(own, chunk))
        features = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        places = torch.tensor([c for chunk in chunks for c in chunk.classes], device=features.device)
        return F.normalize(features[:, torch.argsort(places)], dim=-1)

    def _encode_in_trimmed_memory(self, contexts: Tensor, chunk: _Chunk) -> Tensor:
        return_free_memory()
        return self._encode_chunk(contexts, chunk)

    def _encode_chunk(self, contexts: Tensor, chunk: _Chunk) -> Tensor:
        """Encode contexts (C, M, D) or (C, K, M, D) as features (C, n, F) of the n classes of a chunk."""
        causal = self._plan.causal
        if causal is None or chunk.sequences is None:
            return encode_spliced(self._model, self._plan, self._tokens, contexts, chunk.classes)
        start = causal.token_embedding(torch.tensor(self._tokens.start, device=contexts.device, dtype=torch.long))
        start = start.expand(contexts.shape[0], -1, -1)
        if contexts.dim() == 3:
            return encode_shared_prefix(causal, torch.cat([start, contexts], dim=1), chunk.sequences)
        # With class-specific contexts only the start token is shared; context and name follow as the ending.
        count, endings = contexts.shape[-2], chunk.sequences
        own = contexts[:, list(chunk.classes)].flatten(1, 2)
        places = (endings.starts[:, None] + torch.arange(count, device=contexts.device)).flatten()
        behind = causal.token_embedding(endings.ids).expand(contexts.shape[0], -1, -1).index_copy(1, places, own)
        return encode_shared_prefix(causal, start, endings, behind)

    def _kept(self, chunks: Sequence[_Chunk]) -> int:
        """Return how many of the last chunks fit the budget together, at least 1."""
        sizes = itertools.accumulate(chunk.size for chunk in reversed(chunks))
        return max(1, sum(size <= self._budget for size in sizes))

    def _chunks(self, shape: tuple[int, ...]) -> list[_Chunk]:
        """Split the classes for contexts of a shape; only the first chunk may be smaller than the others."""
        if shape not in self._layouts:
            costs = self._costs(shape)
            groups: list[list[int]] = [[]]
            used = 0
            for c in sorted(range(len(costs)), key=costs.__getitem__):
                full = len(groups[-1]) == MOST_CLASSES or used + costs[c] > self._budget // CHUNKS
                if groups[-1] and full:
                    groups.append([])
                    used = 0
                groups[-1].append(c)
                used += costs[c]
            filler = (0,) * (shape[-2] if len(shape) == 4 else 0)
            chunks = []
            for group in reversed(groups):
                rows = [filler + self._tokens.rest[c] for c in group]
                sequences = Packed.of(rows, self._device) if self._plan.path == "prefix" else None
                chunks.append(_Chunk(tuple(group), sequences, sum(costs[c] for c in group)))
            self._layouts[shape] = chunks
        return self._layouts[shape]

    def _costs(self, shape: tuple[int, ...]) -> list[int]:
        """Return the bytes of each class's activations for contexts of a shape."""
        contexts, count, own = shape[0], shape[-2], len(shape) == 4
        shared = len(self._tokens.start) + count
        lengths = self._tokens.lengths()
        if self._plan.causal is None:
            full = self._plan.path == "full"
            tokens = [self._plan.context_length if full else shared + n for n in lengths]
        else:
            tokens = [n + count if own else n for n in lengths]
        return [4 * contexts * self._plan.layers * n * FLOATS_PER_TOKEN_AND_LAYER * self._plan.width for n in tokens]
