"""Exact text encoding of many prompts that share their beginning, for causal towers.

The prompts of all classes begin with the same prefix, [start] + context. Under a causal mask no token attends to a later
one, so the hidden states of the prefix are the same for all classes and are computed once per context. For each class only
the tokens after the context are computed; they attend to the prefix's keys and values and to themselves. Tokens after the
read-out token are never computed, and the last block computes only the read-out token. Classes are sorted by length and
all their tokens are in one tensor, so each linear layer is one matrix product without padding. Attention runs once per
length.

The result equals the full-length encoding up to rounding, and so do gradients with respect to the contexts (tests compare
both with open_clip's forward in float32 and float64). Dropout is not implemented, because the towers have none at
inference. `towers` names the paths of towers that are not causal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from negprompt_cli.engine.prompt_learners.towers import CausalTower


@dataclass(frozen=True)
class Ragged:
    """K sequences of different lengths, concatenated and sorted by length; T is the total number of tokens.

    `ids` (T,): token ids. `offsets` (T,): position of each token in its sequence. `ends` (K,): index of each sequence's last
    token. `order` (K,): the caller's index of each sequence. `runs`: (first token, number of sequences, length) per length.
    """

    ids: Tensor
    offsets: Tensor
    ends: Tensor
    order: Tensor
    runs: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device) -> "Ragged":
        """Concatenate K non-empty rows of ids."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        lengths = [len(rows[i]) for i in order]
        runs, first = [], 0
        for length, same in groupby(lengths):
            count = len(list(same))
            runs.append((first, count, length))
            first += count * length
        counts = torch.tensor(lengths)
        return cls(
            ids=torch.tensor([t for i in order for t in rows[i]], device=device),
            offsets=torch.cat([torch.arange(n) for n in lengths]).to(device),
            ends=(counts.cumsum(0) - 1).to(device),
            order=torch.tensor(order, device=device),
            runs=tuple(runs),
        )


def encode_shared_prefix(tower: CausalTower, prefix: Tensor, sequences: Ragged, behind: Tensor | None = None) -> Tensor:
    """Encode C prefixes with K endings each.

    Args:
        tower: the causal text tower, frozen.
        prefix: (C, P, D) embeddings of the shared beginning, without positions.
        sequences: the K endings.
        behind: (C, T, D) embeddings of the endings, without positions; None uses the tower's token embeddings. Needed for
            class-specific contexts.

    Returns:
        (C, K, F) text features in the caller's order, not normalised.
    """
    shared = prefix.shape[1]
    x_prefix = prefix + tower.positions[:shared]
    endings = tower.token_embedding(sequences.ids).unsqueeze(0) if behind is None else behind
    # (1, T, D) until the first attention makes it depend on the prefix.
    x = endings + tower.positions[shared + sequences.offsets]
    for block in tower.blocks[:-1]:
        x_prefix, x = _block(block, tower.heads, x_prefix, x, sequences)
    pooled = (
        _last_block(tower.blocks[-1], tower.heads, x_prefix, x, sequences) if tower.blocks else x[:, sequences.ends]
    )
    features = tower.project(pooled)
    return features[:, torch.argsort(sequences.order)]


def _block(block: Any, heads: int, x_prefix: Tensor, x: Tensor, sequences: Ragged) -> tuple[Tensor, Tensor]:
    """Run one residual block over prefixes (C, P, D) and endings (C or 1, T, D)."""
    q_prefix, k_prefix, v_prefix = _qkv(block.attn, heads, block.ln_1(x_prefix))
    q, k, v = _qkv(block.attn, heads, block.ln_1(x))
    out_prefix = F.scaled_dot_product_attention(q_prefix, k_prefix, v_prefix, is_causal=True)
    out = _attend_all(q, k, v, k_prefix, v_prefix, sequences)
    return _residual(block, x_prefix, _merge(block.attn, out_prefix.transpose(1, 2))), _residual(
        block, x, _merge(block.attn, out)
    )


def _last_block(block: Any, heads: int, x_prefix: Tensor, x: Tensor, sequences: Ragged) -> Tensor:
    """Run the last block for the read-out tokens only and return (C, K, D) in the order of `sequences`."""
    _, k_prefix, v_prefix = _qkv(block.attn, heads, block.ln_1(x_prefix))
    q, k, v = _qkv(block.attn, heads, block.ln_1(x))
    out = _attend_all(q, k, v, k_prefix, v_prefix, sequences, last_only=True)
    return _residual(block, x[:, sequences.ends], _merge(block.attn, out))


def _residual(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Apply the rest of a pre-norm residual block to its attention output, with layer scales and extra norms."""
    after = getattr(block, "ln_attn", None)
    x = x + block.ls_1(attended if after is None else after(attended))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out


def _qkv(attention: Any, heads: int, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project (B, L, D) to queries, keys and values (B, heads, L, D / heads)."""
    q, k, v = F.linear(h, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    if hasattr(attention, "ln_q"):
        q, k = attention.ln_q(q), attention.ln_k(k)
    return q, k, v


def _split(t: Tensor, contexts: int, count: int) -> Tensor:
    """Reshape (C or 1, heads, count * L, d) to (C, count, heads, L, d)."""
    split: Tensor = t.unflatten(2, (count, -1))
    return split.transpose(1, 2).expand(contexts, -1, -1, -1, -1)


def _attend_all(
    q: Tensor, k: Tensor, v: Tensor, k_prefix: Tensor, v_prefix: Tensor, sequences: Ragged, *, last_only: bool = False
) -> Tensor:
    """Compute the attention of all endings, one length after the other.

    Args:
        q: (C or 1, heads, T, d); k and v have the same shape.
        k_prefix: (C, heads, P, d); v_prefix has the same shape.
        sequences: layout of the endings.
        last_only: compute each ending's last token only.

    Returns:
        (C, T, heads, d), or (C, K, heads, d) with `last_only`, in the order of `sequences`.
    """
    contexts = k_prefix.shape[0]
    outs = []
    for first, count, length in sequences.runs:
        part = slice(first, first + count * length)
        queries, keys, values = (_split(t[:, :, part], contexts, count) for t in (q, k, v))
        outs.append(_attend(queries[..., -1:, :] if last_only else queries, keys, values, k_prefix, v_prefix))
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)


def _attend(q: Tensor, k: Tensor, v: Tensor, k_prefix: Tensor, v_prefix: Tensor) -> Tensor:
    """Compute the attention of endings of one length to the prefix and, causally, to themselves.

    Args:
        q: (C, n, heads, Q, d), the last Q tokens of each ending.
        k: (C, n, heads, L, d); v has the same shape.
        k_prefix: (C, heads, P, d); v_prefix has the same shape.

    Returns:
        (C, n * Q, heads, d).
    """
    count, rows, length = q.shape[1], q.shape[3], k.shape[3]
    scale = q.shape[-1] ** -0.5
    # One product per head compares all endings of a context with the prefix.
    flat = q.transpose(1, 2).flatten(2, 3)
    to_prefix = (flat @ k_prefix.transpose(-1, -2)).unflatten(2, (count, rows)).transpose(1, 2)
    to_self = q @ k.transpose(-1, -2)
    if rows > 1:
        later = torch.ones(rows, length, dtype=torch.bool, device=q.device).triu(1)
        to_self = to_self.masked_fill(later, float("-inf"))
    weights = (torch.cat([to_prefix, to_self], dim=-1) * scale).softmax(dim=-1)
    shared = k_prefix.shape[2]
    from_prefix = weights[..., :shared].transpose(1, 2).flatten(2, 3) @ v_prefix
    out: Tensor = weights[..., shared:] @ v + from_prefix.unflatten(2, (count, rows)).transpose(1, 2)
    return out.transpose(2, 3).flatten(1, 2)


def _merge(attention: Any, out: Tensor) -> Tensor:
    """Map (B, L, heads, d) to (B, L, D) by head scales, the inner norm and the output projection."""
    if getattr(attention, "head_scale", None) is not None:
        out = out * attention.head_scale.view(-1, 1)
    out = out.flatten(2)
    if hasattr(attention, "ln_inner"):
        out = attention.ln_inner(out)
    merged: Tensor = attention.out_proj(out)
    return merged
