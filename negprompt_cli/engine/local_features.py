"""Patch features of a CLIP vision transformer that can be compared with its text features.

In the last block each patch keeps its own value instead of an attention average: with x the block's input,

    v = x + out_proj(W_v ln_1(x) + b_v),    f_r = proj(ln_post(v + mlp(ln_2(v))))_r   for the patches r

as GL-MCM does (Miyai et al., "GL-MCM: global and local maximum concept matching for zero-shot out-of-distribution
detection", IJCV 2025, section 3; the idea is MaskCLIP's, Zhou et al., ECCV 2022). Ordinary patch tokens of the last layer
were never trained against text. ResNets with attention pooling and towers of other libraries are refused.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from negprompt_cli.engine.clip import Clip


def why_no_local_features(model: nn.Module) -> str | None:
    """Return why an open_clip model has no local features, or None if it has them."""
    visual: Any = getattr(model, "visual", None)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    name = type(getattr(visual, "trunk", visual)).__name__
    if not blocks or not all(hasattr(visual, part) for part in ("ln_post", "proj", "class_embedding")):
        return f"its image tower ({name}) is not open_clip's vision transformer"
    block = blocks[-1]
    plain = isinstance(getattr(block, "attn", None), nn.MultiheadAttention) and block.attn.in_proj_weight is not None
    if not plain or not all(hasattr(block, part) for part in ("ln_1", "ls_1", "ln_2", "mlp", "ls_2")):
        return f"the last block of its image tower ({type(block).__name__}) is not a plain attention block"
    if visual.attn_pool is not None or visual.final_ln_after_pool:
        return "its image tower pools patches by attention or normalises after pooling"
    return None


def encode_local(clip: Clip, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode preprocessed images and their patches.

    Args:
        clip: a model for which `why_no_local_features` returns None.
        pixels: (B, 3, H, W) as `clip.preprocess` makes them, on any device.

    Returns:
        (B, F) image features and (B, R, F) features of R patches, float32, L2-normalised, on the model's device.
    """
    visual: Any = clip.model.visual
    seen: list[Tensor] = []
    handle = visual.transformer.resblocks[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    dtype = clip.compute.dtype
    try:
        with torch.autocast(clip.device.type, dtype, enabled=dtype != torch.float32):
            features: Tensor = clip.model.encode_image(pixels.to(clip.device))  # type: ignore[operator]
            local = _patch_features(visual, seen[0])
    finally:
        handle.remove()
    return F.normalize(features.float(), dim=-1), F.normalize(local.float(), dim=-1)


def _patch_features(visual: Any, entering: Tensor) -> Tensor:
    """Return the features (B, R, F), not normalised, of the R patches in the last block's input (B, 1 + R, width)."""
    block = visual.transformer.resblocks[-1]
    if not getattr(visual.transformer, "batch_first", False):
        entering = entering.transpose(0, 1)
    width = entering.shape[-1]
    weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias
    own = F.linear(block.ln_1(entering), weight, None if bias is None else bias[2 * width :])
    hidden = entering + block.ls_1(block.attn.out_proj(own))
    hidden = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    # The first token is the class token.
    patches: Tensor = visual.ln_post(hidden[:, 1:])
    return patches if visual.proj is None else patches @ visual.proj
