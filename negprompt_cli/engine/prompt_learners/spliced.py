"""Encode prompts by a model's own `encode_text`, with context vectors in place of token embeddings.

A forward hook on the embedding module overwrites the embeddings at the positions of the context; everything else is the
model's own code. Each class costs a whole sequence. This path is used for towers that cannot share a prefix (see
`towers`), and tests compare shared-prefix encoding with it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from negprompt_cli.engine.prompt_learners.tokens import PromptTokens
from negprompt_cli.engine.prompt_learners.towers import TowerPlan


def encode_spliced(
    model: nn.Module, plan: TowerPlan, tokens: PromptTokens, contexts: Tensor, classes: Sequence[int]
) -> Tensor:
    """Encode prompts of some classes with C contexts each.

    Args:
        model: the open_clip model, frozen.
        plan: its encoding path; 'truncated' cuts the sequences to the longest of these classes.
        tokens: the prompts of all K classes.
        contexts: (C, M, D), or (C, K, M, D) when class-specific.
        classes: the n classes to encode.

    Returns:
        (C, n, F) text features, not normalised.
    """
    count, width = contexts.shape[-2:]
    start = len(tokens.start)
    rows = [list(tokens.rest[c]) for c in classes]
    longest = start + count + max(len(r) for r in rows)
    masked = plan.path == "truncated" and tokens.pad == plan.ignored_id
    length = longest if masked else plan.context_length
    ids = torch.full((len(rows), length), tokens.pad)
    for i, row in enumerate(rows):
        whole = [*tokens.start, *([tokens.filler] * count), *row]
        ids[i, : len(whole)] = torch.tensor(whole)
    ids = ids.to(contexts.device)
    features = []
    for context in contexts:
        vectors = context[list(classes)] if context.dim() == 3 else context.expand(len(rows), count, width)

        def splice(_module: nn.Module, _args: object, embedded: Tensor, vectors: Tensor = vectors) -> Tensor:
            return torch.cat([embedded[:, :start], vectors.to(embedded.dtype), embedded[:, start + count :]], dim=1)

        handle = plan.embedding.register_forward_hook(splice)
        try:
            features.append(model.encode_text(ids, normalize=False))  # type: ignore[operator]
        finally:
            handle.remove()
    return torch.stack(features)
