"""Exact text encoding of many prompts that share their beginning, for causal towers.

The prompts of all classes begin with the same prefix, [start] + context. Under a causal mask no token attends to a later
one, so the hidden states of the prefix are the same for all classes and are computed once per context. For each class only
the tokens after the context are computed; they attend to the prefix's keys and values and to themselves. Tokens after the
read-out token are never computed, and the last block computes only the read-out token. The endings of all classes are
packed into groups of equal size with hardly a gap. Each linear layer is one matrix product over prefixes and endings, and
attention of the endings is one call with a mask.

The result equals the full-length encoding up to rounding, and so do gradients with respect to the contexts (tests compare
both with open_clip's forward in float32 and float64). Dropout is not implemented, because the towers have none at
inference. `towers` names the paths of towers that are not causal.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from negprompt_cli.engine.prompt_learners.towers import CausalTower

GROUP_TOKENS = 16
"""Smallest number of tokens in a group. Smaller groups need many tiny products; in larger ones most products are masked."""


@dataclass(frozen=True)
class Packed:
    """K sequences of different lengths, packed into G groups of S tokens without splitting a sequence.

    `ids` (G * S,): token ids. `offsets` (G * S,): position of each token in its sequence. `visible` (G, S, S): the tokens of
    its group that each token attends to, which are those of its sequence up to itself. `starts`, `ends` (K,): index of each
    sequence's first and last token. Gaps at the end of a group are filled with token 0.
    """

    ids: Tensor
    offsets: Tensor
    visible: Tensor
    starts: Tensor
    ends: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device) -> "Packed":
        """Pack K non-empty rows of ids."""
        waiting: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            waiting.setdefault(len(row), []).append(number)
        counts = Counter(map(len, rows))
        least = max(*counts, min(GROUP_TOKENS, sum(map(len, rows))))
        size = min(range(least, least + GROUP_TOKENS), key=lambda s: s * len(_groups(counts, s)))
        ids: list[int] = []
        offsets: list[int] = []
        owners: list[int] = []
        starts = [0] * len(rows)
        for group in _groups(counts, size):
            for length in group:
                number = waiting[length].pop()
                starts[number] = len(ids)
                ids += rows[number]
                offsets += range(length)
                owners += [number] * length
            gap = -len(ids) % size
            for column, value in ((ids, 0), (offsets, 0), (owners, -1)):
                column += [value] * gap
        owner = torch.tensor(owners, device=device).view(-1, size)
        first = torch.tensor(starts, device=device)
        return cls(
            ids=torch.tensor(ids, device=device),
            offsets=torch.tensor(offsets, device=device),
            visible=(owner[:, :, None] == owner[:, None, :]).tril(),
            starts=first,
            ends=first + torch.tensor([len(row) - 1 for row in rows], device=device),
        )


def _groups(counts: Mapping[int, int], size: int) -> list[list[int]]:
    """Lengths that go into each group of `size`: the longest of those left, then ever shorter ones that still fit."""
    left, groups = dict(sorted(counts.items(), reverse=True)), []
    while any(left.values()):
        group: list[int] = []
        for length in left:
            taken = min(left[length], (size - sum(group)) // length)
            group += [length] * taken
            left[length] -= taken
        groups.append(group)
    return groups


def encode_shared_prefix(tower: CausalTower, prefix: Tensor, sequences: Packed, behind: Tensor | None = None) -> Tensor:
    """Encode C prefixes with K endings each.

    Args:
        tower: the causal text tower, frozen.
        prefix: (C, P, D) embeddings of the shared beginning, without positions.
        sequences: the K endings, packed.
        behind: (C, G * S, D) embeddings of the endings, without positions; None uses the tower's token embeddings. Needed
            for class-specific contexts.

    Returns:
        (C, K, F) text features, not normalised.
    """
    contexts, shared, _ = prefix.shape
    endings = tower.token_embedding(sequences.ids).unsqueeze(0) if behind is None else behind
    first = (prefix + tower.positions[:shared]).flatten(0, 1)
    x = (endings + tower.positions[shared + sequences.offsets]).flatten(0, 1)
    hidden = F.pad(~sequences.visible, (shared, 0)).repeat(contexts, 1, 1).unsqueeze(1)
    mask = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, float("-inf"))
    # Rows of all prefixes, then of the endings: once for all contexts, until the first attention makes them differ.
    rows = torch.cat([first, x])
    for number, block in enumerate(tower.blocks):
        attended = _attend(block, tower.heads, rows, (contexts, shared), mask)
        if number == 0:
            rows = torch.cat([first, x.repeat(contexts * len(sequences.ids) // len(x), 1)])
        if number == len(tower.blocks) - 1:
            rows, attended = (t[len(first) :].unflatten(0, (contexts, -1))[:, sequences.ends] for t in (rows, attended))
        rows = _residual(block, rows, attended)
    return tower.project(rows)


def _attend(block: Any, heads: int, rows: Tensor, prefix: tuple[int, int], mask: Tensor) -> Tensor:
    """Compute the attention of C prefixes of P tokens to themselves, and of their endings to prefix and endings.

    Args:
        block: a transformer block.
        heads: number of attention heads.
        rows: (C * P + B * G * S, D) hidden states; B is 1 if all contexts have the same endings, else C.
        prefix: C and P.
        mask: (C * G, 1, S, P + S), added to the logits of the endings.

    Returns:
        (C * P + C * G * S, D): attention outputs before head scales and projection.
    """
    contexts, shared = prefix
    attention, groups, size = block.attn, len(mask) // contexts, mask.shape[2]
    beginnings, endings = [], []
    for projected in _qkv(attention, heads, block.ln_1(rows)):
        first, behind = projected.split([contexts * shared, len(rows) - contexts * shared])
        beginnings.append(first.unflatten(0, prefix))
        endings.append(behind.unflatten(0, (-1, groups, size)).expand(contexts, -1, -1, -1, -1))
    keys, values = (
        torch.cat([first.unsqueeze(1).expand(-1, groups, -1, -1, -1), behind], dim=2).flatten(0, 1)
        for first, behind in zip(beginnings[1:], endings[1:], strict=True)
    )
    of_prefixes = _dot_product(*beginnings, is_causal=True)
    return torch.cat([of_prefixes, _dot_product(endings[0].flatten(0, 1), keys, values, attn_mask=mask)])


def _dot_product(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    """Attention of queries (B, Q, heads, d) to keys and values (B, L, heads, d): (B * Q, heads, d)."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), **how)
    return out.transpose(1, 2).flatten(0, 1)


def _qkv(attention: Any, heads: int, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project (R, D) to queries, keys and values (R, heads, D / heads)."""
    biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    # Three separate products: with one product, the gradients of its parts would have to be copied into one tensor.
    q, k, v = (
        F.linear(h, weight, bias).unflatten(-1, (heads, -1))
        for weight, bias in zip(attention.in_proj_weight.chunk(3), biases, strict=True)
    )
    if hasattr(attention, "ln_q"):
        q, k = attention.ln_q(q), attention.ln_k(k)
    return q, k, v


def _residual(block: Any, x: Tensor, out: Tensor) -> Tensor:
    """Finish a pre-norm residual block from the attention output (..., heads, d) of x (..., D).

    With head scales, the inner norm, the output projection, layer scales and extra norms where the block has them.
    """
    attention = block.attn
    if getattr(attention, "head_scale", None) is not None:
        out = out * attention.head_scale.view(-1, 1)
    out = out.flatten(-2)
    if hasattr(attention, "ln_inner"):
        out = attention.ln_inner(out)
    out = attention.out_proj(out)
    if (after := getattr(block, "ln_attn", None)) is not None:
        out = after(out)
    # In place, because nothing needs the summands and memory is slow; autograd would say if anything did.
    x = block.ls_1(out).add_(x)
    finished: Tensor = block.ls_2(block.mlp(block.ln_2(x))).add_(x)
    return finished
