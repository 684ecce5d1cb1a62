"""What kind of text tower a model has, and so which encoding path keeps its features exact.

Learned prompts put context vectors in front of class names, so the text tower must be fed embeddings instead of token
ids. How much of the work can be shared between classes depends on the tower, and is decided here by looking at the
model, never at its name:

    prefix      causal attention in blocks this package knows: [start] + context is computed once per context, each class
                adds only its own tokens (`shared_prefix`)
    truncated   attention that ignores padding, and a pool that does too: sequences are cut to the longest class of a
                chunk (`spliced`)
    full        everything else: full-length sequences through the model's own forward (`spliced`)

Source: open_clip's `CLIP`, `CustomTextCLIP`, `CoCa`, `TextTransformer` and `HFTextEncoder` (3.x). Leaves out: towers of
other libraries.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

PathKind = Literal["prefix", "truncated", "full"]

DEFAULT_CONTEXT_LENGTH = 77
"""Tokens of a sequence where the tower sets no limit: CLIP's, and open_clip's default."""


@dataclass(frozen=True)
class CausalTower:
    """The parts of a causal text tower that shared-prefix encoding runs one by one.

    Shapes: `positions` (L, D); `projection` maps (..., D) to (..., F), and is None where the tower has none.
    """

    token_embedding: nn.Embedding
    positions: Tensor
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module
    projection: nn.Module | Tensor | None
    heads: int

    def project(self, hidden: Tensor) -> Tensor:
        """Map pooled hidden states (..., D) to text features (..., F), not normalised."""
        hidden = self.final_norm(hidden)
        if self.projection is None:
            return hidden
        if isinstance(self.projection, nn.Module):
            projected: Tensor = self.projection(hidden)
            return projected
        return hidden @ self.projection


@dataclass(frozen=True)
class TowerPlan:
    """Which path a model's text tower takes and why, with what the path needs to know.

    `context_length` counts tokens, start and end included. `pool` is 'argmax', 'eos', 'last' or what the tower itself
    does ('own'). `embedding` is the module that turns token ids into vectors, `layers` counts blocks. `ignored_id` is the
    id that attention ignores on the 'truncated' path; a tokenizer that pads with another id gets full sequences.
    """

    path: PathKind
    reason: str
    context_length: int
    pool: str
    eos_id: int | None
    embedding: nn.Module
    layers: int
    causal: CausalTower | None = None
    ignored_id: int | None = None

    @property
    def width(self) -> int:
        """Length of one token embedding, and so of one context vector."""
        weight: Tensor = self.embedding.weight  # type: ignore[assignment]
        return int(weight.shape[1])


def plan_text_path(model: nn.Module) -> TowerPlan:
    """Look at an open_clip model and say how its prompts are encoded.

    Args:
        model: an open_clip `CLIP`, `CustomTextCLIP`, `CoCa` or a model shaped like one.

    Returns:
        The plan; `plan.causal` is set exactly when the path is 'prefix'.
    """
    text: Any = getattr(model, "text", model)
    if hasattr(text, "token_embedding"):
        return _plan_native(model, text)
    return _plan_hugging_face(model, text)


def _plan_native(model: Any, text: Any) -> TowerPlan:
    flat = text is model
    pool = str(model.text_pool_type if flat else text.pool_type)
    eos_id = getattr(text, "text_eos_id" if flat else "eos_id", None)
    common = {
        "context_length": int(text.context_length),
        "pool": pool,
        "eos_id": eos_id,
        "embedding": text.token_embedding,
        "layers": len(text.transformer.resblocks),
    }
    if getattr(text, "cls_emb", None) is not None:
        return TowerPlan("full", "a class token behind the padding attends to the whole sequence", **common)
    if text.attn_mask is None:
        if getattr(text, "use_pad_mask", False) and pool in ("first", "eos", "argmax"):
            reason = "attention runs both ways but ignores padding"
            return TowerPlan("truncated", reason, ignored_id=int(text.pad_id), **common)
        return TowerPlan("full", "attention runs both ways, so every token sees every other", **common)
    blocks = tuple(text.transformer.resblocks)
    unknown = next((why for block in blocks if (why := _unknown_block(block))), None)
    if unknown:
        return TowerPlan("full", unknown, **common)
    if pool not in ("argmax", "eos", "last"):
        return TowerPlan("full", f"pooling '{pool}' does not read one late token", **common)
    heads = blocks[0].attn.num_heads if blocks else 1
    causal = CausalTower(
        text.token_embedding, text.positional_embedding, blocks, text.ln_final, text.text_projection, int(heads)
    )
    return TowerPlan("prefix", f"causal attention, pooling '{pool}'", causal=causal, **common)


def _plan_hugging_face(model: Any, text: Any) -> TowerPlan:
    embedding = text.transformer.get_input_embeddings()
    common = {
        # Towers with relative positions (T5) name no limit.
        "context_length": int(getattr(model, "context_length", 0)) or DEFAULT_CONTEXT_LENGTH,
        "pool": "own",
        "eos_id": None,
        "embedding": embedding,
        "layers": int(getattr(text.config, "num_hidden_layers", 12)),
    }
    if not hasattr(text, "pooler"):
        return TowerPlan("full", f"text tower {type(text).__name__} is not one whose padding is known", **common)
    ignored = text.config.pad_token_id
    return TowerPlan("truncated", "a Hugging Face tower that masks its padding", ignored_id=ignored, **common)


def _unknown_block(block: Any) -> str | None:
    """Say why a transformer block cannot be run part by part, or None if it can."""
    attention = getattr(block, "attn", None)
    name = f"{type(block).__module__.split('.')[0]}.{type(block).__name__}"
    if not all(hasattr(block, part) for part in ("ln_1", "ls_1", "ln_2", "mlp", "ls_2")) or hasattr(block, "ln_1_kv"):
        return f"block {name} is not one that can be run part by part"
    if isinstance(attention, nn.MultiheadAttention):
        plain = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
        return None if plain else f"attention of {name} has separate or extra keys"
    known = ("in_proj_weight", "in_proj_bias", "ln_q", "ln_k", "ln_inner", "head_scale", "out_proj", "num_heads")
    if not all(hasattr(attention, part) for part in known):
        return f"attention of {name} is not one that can be run part by part"
    if getattr(attention, "logit_scale", None) is not None:
        return f"attention of {name} scales cosines"
    return None
