"""Choose the encoding path that keeps the text features of a model exact.

Learned prompts put context vectors in front of class names, so the text tower must be fed embeddings instead of token
ids. How much of the work can be shared between classes depends on the tower, and is decided here by looking at the
model, never at its name:

    prefix      causal attention in blocks this package knows: [start] + context is computed once per context, and each
                class adds only its own tokens (`shared_prefix`)
    truncated   attention and pooling that ignore padding: sequences are cut to the longest class of a chunk (`spliced`)
    full        everything else: the model's own forward encodes full-length sequences (`spliced`)

Source: open_clip's `CLIP`, `CustomTextCLIP`, `CoCa`, `TextTransformer` and `HFTextEncoder` (3.x). Towers of other libraries
are not supported.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

PathKind = Literal["prefix", "truncated", "full"]

DEFAULT_CONTEXT_LENGTH = 77
"""Length of a sequence if the tower sets no limit: that of CLIP and open_clip's default."""


@dataclass(frozen=True)
class CausalTower:
    """The parts of a causal text tower that shared-prefix encoding calls one by one.

    Shapes: `positions` (L, D); `projection` maps (..., D) to (..., F), and is None if the tower has none.
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
    """The encoding path of a model's text tower, the reason for it, and the values that the path needs.

    `context_length` counts tokens, start and end included. `pool` is 'argmax', 'eos', 'last', or 'own' if the tower itself
    pools. `embedding` is the module that maps token ids to vectors, and `layers` counts blocks. `ignored_id` is the id that
    attention ignores on the 'truncated' path; if a tokenizer pads with another id, sequences are not truncated.
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
        """Size D of a token embedding, and so of a context vector."""
        weight: Tensor = self.embedding.weight  # type: ignore[assignment]
        return int(weight.shape[1])


def plan_text_path(model: nn.Module) -> TowerPlan:
    """Inspect an open_clip model and choose the encoding path of its prompts.

    Args:
        model: an open_clip `CLIP`, `CustomTextCLIP`, `CoCa`, or a model with the same structure.

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
        return TowerPlan("full", "a class token after the padding attends to the whole sequence", **common)
    if text.attn_mask is None:
        if getattr(text, "use_pad_mask", False) and pool in ("first", "eos", "argmax"):
            reason = "attention is bidirectional but ignores padding"
            return TowerPlan("truncated", reason, ignored_id=int(text.pad_id), **common)
        return TowerPlan("full", "attention is bidirectional, so every token sees every other", **common)
    blocks = tuple(text.transformer.resblocks)
    unknown = next((why for block in blocks if (why := _unknown_block(block))), None if blocks else "it has no blocks")
    if unknown:
        return TowerPlan("full", unknown, **common)
    if pool not in ("argmax", "eos", "last"):
        return TowerPlan("full", f"pooling '{pool}' does not read one late token", **common)
    heads = blocks[0].attn.num_heads
    causal = CausalTower(
        text.token_embedding, text.positional_embedding, blocks, text.ln_final, text.text_projection, int(heads)
    )
    return TowerPlan("prefix", f"causal attention, pooling '{pool}'", causal=causal, **common)


def _plan_hugging_face(model: Any, text: Any) -> TowerPlan:
    embedding = text.transformer.get_input_embeddings()
    common = {
        # Towers with relative positions (T5) have no limit.
        "context_length": int(getattr(model, "context_length", 0)) or DEFAULT_CONTEXT_LENGTH,
        "pool": "own",
        "eos_id": None,
        "embedding": embedding,
        "layers": int(getattr(text.config, "num_hidden_layers", 12)),
    }
    if not hasattr(text, "pooler"):
        return TowerPlan("full", f"how text tower {type(text).__name__} treats padding is not known", **common)
    ignored = text.config.pad_token_id
    return TowerPlan("truncated", "a Hugging Face tower that masks its padding", ignored_id=ignored, **common)


def _unknown_block(block: Any) -> str | None:
    """Return why the parts of a transformer block cannot be called separately, or None if they can."""
    attention = getattr(block, "attn", None)
    name = f"{type(block).__module__.split('.')[0]}.{type(block).__name__}"
    if not all(hasattr(block, part) for part in ("ln_1", "ls_1", "ln_2", "mlp", "ls_2")) or hasattr(block, "ln_1_kv"):
        return f"the parts of block {name} are not known"
    if isinstance(attention, nn.MultiheadAttention):
        plain = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
        return None if plain else f"the attention of {name} has separate projections or extra keys"
    known = ("in_proj_weight", "in_proj_bias", "ln_q", "ln_k", "ln_inner", "head_scale", "out_proj", "num_heads")
    if not all(hasattr(attention, part) for part in known):
        return f"the parts of the attention of {name} are not known"
    if getattr(attention, "logit_scale", None) is not None:
        return f"the attention of {name} scales cosines"
    return None
