"""CoOp's and its successors' checkpoints: learned contexts of other programs, read and written.

    CoOp, LoCoOp   {"state_dict": {"ctx": (M, D) or (K, M, D), "token_prefix": ..., "token_suffix": ...}, "epoch": ...}
                   as prompt_learner/model.pth.tar-N (Zhou et al., IJCV 2022; Miyai et al., NeurIPS 2023)
    NegPrompt      a state dict with prompt_learner.ctx_positive (1, M, D) or (K, 1, M, D) and prompt_learner.ctx_negative
                   (p, M, D) or (K, p, M, D), md.pth of the official code; empty negatives after stage 1

Files are read with torch's weights_only, which runs nothing in them; what it refuses is refused here. A checkpoint does
not say which model or which classes it is for: whoever imports it does, and shapes are compared.

Differences: CoOp ends a prompt with a full stop, as this package does; the official NegPrompt code does not, so its contexts
are read with a full stop they were not trained with. Contexts in the middle or in front (CoOp's `class_token_position`)
cannot be told from a checkpoint and are taken for "end".
"""

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.errors import UsageError


@dataclass(frozen=True)
class ForeignPrompts:
    """Contexts of a checkpoint in this package's shapes: `positive` (1, [K,] M, D), `negative` (p, [K,] M, D) or None.

    `origin`: "coop" or "official".
    """

    positive: Tensor
    negative: Tensor | None
    origin: str


def read_checkpoint(path: Path) -> ForeignPrompts:
    """Read a checkpoint.

    Raises:
        UsageError: not there, refused by weights_only, of another program, or of other shapes; says why.
    """
    if not path.is_file():
        hint = " Give the file in it, such as model.pth.tar-50." if path.is_dir() else ""
        raise UsageError(f"No checkpoint at {path}.{hint}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise UsageError(f"{path} is refused: it is compressed, which torch.save never does.")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0].removeprefix("Weights only load failed. ")
        raise UsageError(
            f"{path} is refused: it holds more than tensors, and reading that could run code ({reason}). Where you trust "
            "it, load it and save its state_dict alone: torch.save({'state_dict': checkpoint['state_dict']}, FILE)."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # what torch trips over in a damaged file is of any type
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{path} is not a readable checkpoint ({reason}).") from None
    return read_state(loaded, str(path))


def read_state(loaded: Any, where: str) -> ForeignPrompts:
    """Find the contexts in what a checkpoint holds.

    Raises:
        UsageError: there are none, or their shapes make no sense.
    """
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise UsageError(f"{where} holds a {type(loaded).__name__}, not a state dict.")
    names = {str(key).removeprefix("module.").removeprefix("prompt_learner."): value for key, value in state.items()}
    if isinstance(names.get("ctx_positive"), Tensor):
        positive = _official(names["ctx_positive"], f"{where}: ctx_positive")
        given = names.get("ctx_negative")
        negative = _official(given, f"{where}: ctx_negative") if isinstance(given, Tensor) and given.numel() else None
        origin = "official"
    elif isinstance(names.get("ctx"), Tensor):
        context = names["ctx"]
        if context.dim() not in (2, 3):
            raise UsageError(f"{where}: ctx has shape {tuple(context.shape)}, not (M, D) or (K, M, D).")
        positive, negative, origin = context[None], None, "coop"
    else:
        shown = ", ".join(list(names)[:6]) or "nothing"
        raise UsageError(
            f"{where} holds neither CoOp's ctx nor NegPrompt's ctx_positive, but {shown}. Give the prompt learner's "
            "checkpoint (prompt_learner/model.pth.tar-N, or md.pth)."
        )
    for tensor in (positive, negative):
        if tensor is not None and not (tensor.is_floating_point() and torch.isfinite(tensor).all() and tensor.numel()):
            raise UsageError(f"{where}: its contexts are not finite numbers. Was the training diverging?")
    if positive.shape[0] != 1:
        raise UsageError(f"{where} has {positive.shape[0]} positive contexts per class; one is what artifacts hold.")
    return ForeignPrompts(positive.float(), None if negative is None else negative.float(), origin)


def coop_checkpoint(prompts: Prompts) -> dict[str, Any]:
    """The positive context as CoOp's checkpoint: ctx (M, D), or (K, M, D) where each class has its own."""
    epoch = prompts.training[-1].epoch if prompts.training else 0
    return {"state_dict": {"ctx": prompts.positive[0].detach().cpu().float().clone()}, "epoch": epoch}


def write_coop(prompts: Prompts, path: Path) -> None:
    """Write `coop_checkpoint`.

    Raises:
        NegPromptError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(coop_checkpoint(prompts), buffer)
    atomic_write_bytes(path, buffer.getvalue())


def _official(tensor: Tensor, where: str) -> Tensor:
    """(p, M, D) as it is, (K, p, M, D) to (p, K, M, D)."""
    if tensor.dim() not in (3, 4):
        raise UsageError(f"{where} has shape {tuple(tensor.shape)}, not (p, M, D) or (K, p, M, D).")
    return tensor if tensor.dim() == 3 else tensor.transpose(0, 1)
