"""CoOp's and its successors' checkpoints: learned contexts of other programs, read and written.

    CoOp, LoCoOp   {"state_dict": {"ctx": (M, D) or (K, M, D), "token_prefix": (K, 1, D), "token_suffix": ...}, "epoch",
                   "optimizer", "scheduler", "val_result"} as prompt_learner/model.pth.tar-N (Zhou et al., IJCV 2022;
                   Miyai et al., NeurIPS 2023), saved by Dassl
    KgCoOp         the same, plus `bias_vectors` and `meta_net.linear1`, which its code never uses (Yao et al., 2023)
    ProGrad        the same as CoOp (Zhu et al., ICCV 2023); only the training differs
    NegPrompt      a state dict with prompt_learner.ctx_positive (1, M, D) or (K, 1, M, D) and prompt_learner.ctx_negative
                   (p, M, D) or (K, p, M, D), md.pth of the official code; empty negatives after stage 1

Prefixes of the names (`module.`, `model.`, `state_dict.`, `prompt_learner.` and those of Lightning, DataParallel and
torch.compile) are ignored. A checkpoint that has more than contexts is refused, because contexts alone would give other
scores than its method. The message names the method if it is known, else the tensors.

A checkpoint does not name its model or its classes, so the person who imports it must. If it has CoOp's token vectors, these
are compared with those of the model and of the class names.

Differences: CoOp ends a prompt with a full stop, as this package does. The official NegPrompt code does not, so its contexts
are used here with a full stop that was not there in training. A checkpoint does not say whether the class name is in the
middle or in front (CoOp's `class_token_position`); it is assumed to be at the end.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negprompt_cli.data.files.atomic import atomic_write_bytes
from negprompt_cli.data.files.torch_file import StoredTensor, TensorFile, read_tensors
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

_TRAINING = re.compile(r"^(optim\w*|optimizer_states|(lr_)?sched\w*|loops|callbacks|scaler)\.", re.IGNORECASE)
"""Entries that training code saves besides the state dict."""
_TOKENS = frozenset({"token_prefix", "token_suffix", "token_midfix", "tokenized_prompts"})
"""Tensors of a prompt learner that follow from the class names."""
_FROZEN = re.compile(
    r"(^|\.)(image_encoder|text_encoder|clip_model|clip|visual|transformer|token_embedding|positional_embedding|ln_final"
    r"|text_projection|logit_scale|logit_bias|vision_model|text_model)(\.|$)"
)
"""Parts of the CLIP model, which prompt learning does not change."""
_METHODS = (
    ("MaPLe", r"compound_prompt", "prompts in the image encoder and in deeper layers of the text encoder"),
    ("PromptSRC", r"ZS_image_encoder", "prompts in the layers of both encoders"),
    ("VPT or IVLP", r"VPT", "prompts in the layers of the encoders"),
    ("CoCoOp", r"(^|\.)meta_net\.", "a context that a network makes for each image (meta_net)"),
    ("TaskRes", r"text_feature_residuals", "residuals of text features, not contexts"),
    ("GalLoP", r"(^|\.)(global|local)_prompt", "several prompts for the image and for its parts"),
    ("CLIP-Adapter", r"(^|\.)adapter\.", "a network after the encoders"),
    ("LoRA", r"(^|[._])lora_", "changed weights of the encoders"),
    ("KgCoOp with a network before its context", r"(^|\.)prefix_MLP\.", "a context that a network makes"),
)
"""Methods that cannot be imported: their name, a pattern of their tensors' names, and what they learn."""
_SUPPORTED = "Contexts of CoOp, LoCoOp, KgCoOp and ProGrad can be imported."


@dataclass(frozen=True)
class ImportedPrompts:
    """Contexts of a checkpoint in this package's shapes: `positive` (1, [K,] M, D), `negative` (p, [K,] M, D) or None.

    `origin`: "coop" or "official". `prefix` (K, 1, D) and `suffix` (K, L, D): CoOp's token vectors before and after the
    context, if they were saved. `logit_scale`: that of the training's model, if it was saved. `ignored`: other tensors,
    which were not read because they follow from the model or are not used.
    """

    positive: Tensor
    negative: Tensor | None
    origin: str
    prefix: Tensor | None = None
    suffix: Tensor | None = None
    logit_scale: float | None = None
    ignored: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> ImportedPrompts:
    """Read a checkpoint without running any code in it.

    Raises:
        UsageError: the file is missing or unreadable, its method is not supported, or shapes are wrong.
    """
    if not path.is_file():
        inside = sorted(str(p) for p in path.rglob("*") if ".pth" in p.name or p.suffix in (".pt", ".ckpt"))
        hint = f" It is a folder. Name the file in it: {some_of(inside)}." if inside else ""
        raise UsageError(f"There is no checkpoint at {path}.{hint or (' It is a folder.' if path.is_dir() else '')}")
    return read_state(read_tensors(path), str(path))


def read_state(file: TensorFile, where: str) -> ImportedPrompts:
    """Find the contexts in a checkpoint.

    Raises:
        UsageError: there are no contexts, there are other learned tensors, or shapes are wrong.
    """
    state = {name: tensor for name, tensor in file.tensors.items() if not _TRAINING.match(name)}
    if not state:
        what = file.other or "no tensors"
        if "negprompt" in what:
            raise UsageError(f"{where} is {what}. Use it directly, without import.")
        raise UsageError(
            f"{where} has {what}, not a state dict. Save that of the prompt learner: "
            "torch.save({'state_dict': model.prompt_learner.state_dict()}, FILE). Adapters such as Tip-Adapter's are not "
            "supported."
        )
    if any(_leaf(name) == "ctx_positive" for name in state):
        found = _official(state, where)
    else:
        _refuse_methods(state, where)
        found = _coop(state, where)
    for tensor in (found.positive, found.negative):
        if tensor is not None and not (tensor.is_floating_point() and torch.isfinite(tensor).all() and tensor.numel()):
            raise UsageError(f"{where}: its contexts are not finite numbers. Its training may have diverged.")
    if found.positive.shape[0] != 1:
        raise UsageError(
            f"{where} has {found.positive.shape[0]} positive contexts per class, but an artifact has only one."
        )
    return found


def coop_checkpoint(prompts: Prompts) -> dict[str, Any]:
    """The positive context as CoOp's checkpoint: ctx (M, D), or (K, M, D) if each class has its own."""
    epoch = prompts.training[-1].epoch if prompts.training else 0
    return {"state_dict": {"ctx": prompts.positive[0].detach().cpu().float().clone()}, "epoch": epoch}


def write_coop(prompts: Prompts, path: Path) -> None:
    """Write `coop_checkpoint`."""
    buffer = io.BytesIO()
    torch.save(coop_checkpoint(prompts), buffer)
    atomic_write_bytes(path, buffer.getvalue())


def _coop(state: Mapping[str, StoredTensor], where: str) -> ImportedPrompts:
    name = _only("ctx", state, where)
    learner = name.removesuffix("ctx")
    beside = {key.removeprefix(learner): key for key in state if key.startswith(learner) and key != name}
    unused = {key for key in beside if key == "bias_vectors" or key.startswith("meta_net.linear1.")}
    if not _is_kgcoop(state):
        unused = set()
    rest = [key for key in state if key not in beside.values() and key != name]
    # If the learner's tensors have no prefix, the model's tensors are at the same level.
    odd = [key for key in beside if key not in _TOKENS | unused and not _FROZEN.search(key)]
    odd += [key for key in rest if not _FROZEN.search(key)]
    if odd:
        raise UsageError(
            f"{where} is refused: besides the context ({name}) its method learned other tensors, which scores would need: "
            f"{_some(odd)}. {_SUPPORTED}"
        )
    context = state[name].load()
    if context.dim() not in (2, 3):
        raise UsageError(f"{where}: ctx has shape {tuple(context.shape)}, not (M, D) or (K, M, D).")
    prefix, suffix = (state[beside[key]].load() if key in beside else None for key in ("token_prefix", "token_suffix"))
    if context.dim() == 3 and prefix is not None and len(prefix) != len(context):
        raise UsageError(
            f"{where} is refused: it has {len(context)} contexts and token vectors of {len(prefix)} prompts, so it has "
            f"several prompts for each class, as PLOT and ProDA learn. That is not supported. {_SUPPORTED}"
        )
    for key, part in (("token_prefix", prefix), ("token_suffix", suffix)):
        if part is not None and (part.dim() != 3 or part.shape[-1] != context.shape[-1]):
            raise UsageError(f"{where}: {key} has shape {tuple(part.shape)}, which does not fit the context.")
    scale = next((key for key in state if _leaf(key) == "logit_scale"), None)
    kept = {name, *(beside[key] for key in _TOKENS & beside.keys()), scale}
    return ImportedPrompts(
        context[None].float(),
        None,
        "coop",
        prefix=None if prefix is None else prefix.float(),
        suffix=None if suffix is None else suffix.float(),
        logit_scale=None if scale is None or state[scale].shape not in ((), (1,)) else float(state[scale].load().exp()),
        ignored=tuple(key for key in state if key not in kept),
    )


def _official(state: Mapping[str, StoredTensor], where: str) -> ImportedPrompts:
    name = _only("ctx_positive", state, where)
    other = f"{name.removesuffix('ctx_positive')}ctx_negative"
    given = state[other].load() if other in state else None
    return ImportedPrompts(
        _stacked(state[name].load(), f"{where}: ctx_positive").float(),
        _stacked(given, f"{where}: ctx_negative").float() if given is not None and given.numel() else None,
        "official",
        ignored=tuple(key for key in state if key not in (name, other)),
    )


def _refuse_methods(state: Mapping[str, StoredTensor], where: str) -> None:
    """Refuse checkpoints of methods that learn more than a context.

    Raises:
        UsageError: it is such a checkpoint; the message names the method and what it learns.
    """
    for method, pattern, learns in _METHODS:
        found = [name for name in state if re.search(pattern, name)]
        if not found or (method == "CoCoOp" and _is_kgcoop(state)):
            continue
        raise UsageError(
            f"{where} is refused: it looks like a checkpoint of {method}, which learns {learns} ({_some(found)}). That is "
            f"not supported, and a context alone would give other scores. {_SUPPORTED}"
        )


def _is_kgcoop(state: Mapping[str, StoredTensor]) -> bool:
    """Whether the network is the single layer that KgCoOp's code never uses; CoCoOp's has a second layer."""
    leaves = {".".join(name.split(".")[-3:]) for name in state if ".meta_net." in f".{name}"}
    layers = {name.rsplit(".", 2)[-2] for name in leaves}
    return layers == {"linear1"} and any(_leaf(name) == "bias_vectors" for name in state)


def _only(leaf: str, state: Mapping[str, StoredTensor], where: str) -> str:
    """The one tensor of that name, with any prefix.

    Raises:
        UsageError: there is no such tensor, or there are several.
    """
    found = [name for name in state if _leaf(name) == leaf]
    if len(found) > 1:
        raise UsageError(
            f"{where} has several contexts: {_some(found)}. Save the state dict of only one: "
            "torch.save({'state_dict': model.prompt_learner.state_dict()}, FILE)."
        )
    if not found:
        raise UsageError(
            f"{where} has neither CoOp's ctx nor NegPrompt's ctx_positive, but {_some(list(state))}. Name the prompt "
            "learner's checkpoint (prompt_learner/model.pth.tar-N, or md.pth)."
        )
    return found[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _some(names: list[str]) -> str:
    return some_of([name[:80] for name in names], 4)


def _stacked(tensor: Tensor, where: str) -> Tensor:
    """Keep (p, M, D), and transpose (K, p, M, D) to (p, K, M, D)."""
    if tensor.dim() not in (3, 4):
        raise UsageError(f"{where} has shape {tuple(tensor.shape)}, not (p, M, D) or (K, p, M, D).")
    return tensor if tensor.dim() == 3 else tensor.transpose(0, 1)
