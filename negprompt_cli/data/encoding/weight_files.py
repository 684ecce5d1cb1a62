"""Explain why a file of weights cannot be loaded, by inspecting the file.

The messages of open_clip and torch have many lines about their internals. The messages here say what the file is.
"""

from pathlib import Path

from negprompt_cli.data.files.torch_file import read_tensors
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz"})


USUAL_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""open_clip's file names for a model's weights, in the order in which it searches for them in a folder."""


def chosen_weights(folder: Path) -> tuple[str, list[str]]:
    """Return the name of the weights file that open_clip uses in a model's folder ("" if there is none), and the others.

    Raises:
        UsageError: there are several files and none has a usual name, so open_clip would use the first in the alphabet.
    """
    names = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    usual = [name for name in USUAL_NAMES if name in names]
    if len(names) > 1 and not usual:
        raise UsageError(
            f"{folder} has {len(names)} files of weights, and their names do not show which one belongs to the model: "
            f"{some_of(names)}. Keep only one of them, or rename it to {USUAL_NAMES[0]} (safetensors) or "
            f"{USUAL_NAMES[2]} (torch)."
        )
    chosen = next(iter([*usual, *names]), "")
    return chosen, [name for name in names if name != chosen]


def folder_as_weights(folder: Path) -> UsageError:
    """Make the error for a folder that was given as a file of weights."""
    if (folder / "open_clip_config.json").is_file():
        return UsageError(
            f"{folder} is a folder with a complete model, not a file of weights.",
            remedy="other-model",
            model=f"local-dir:{folder}",
        )
    inside = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    files = f" The folder has {', '.join(inside[:5])}." if inside else ""
    return UsageError(f"{folder} is a folder, not a file of weights. Give the file.{files}")


def fault_of_weights(path: Path, model: str, error: Exception) -> str:
    """Return sentences that say what is wrong with a file of weights and what to do.

    Args:
        path: a file that open_clip could not load.
        model: the model it was loaded into.
        error: the exception; its text is searched, not repeated.
    """
    if path.suffix in (".npz", ".npy"):
        return f"{path} does not contain big_vision weights of {model}."
    try:
        file = read_tensors(path)
    except UsageError as unreadable:
        return str(unreadable)
    names = list(file.tensors)
    if file.other == "a TorchScript program":
        return f"{path} is a TorchScript program, like OpenAI's files. open_clip has these weights as the tag openai."
    if not names:
        return (
            f"{path} contains {file.other or 'no tensors'}, not a state dict. Save only the tensors: "
            "torch.save(model.state_dict(), FILE)."
        )
    if any(name.rpartition(".")[2] in ("ctx", "ctx_positive") for name in names):
        return f"{path} is a prompt learner's checkpoint, not the weights of a CLIP. Import it as prompts."
    if any(name.startswith(("text_model.", "vision_model.")) for name in names):
        return (
            f"{path} contains weights with the names of Hugging Face's transformers, which open_clip does not read. Use "
            "the model's open_clip release."
        )
    text = str(error)
    if "loading state_dict" in text or "size mismatch" in text:
        sizes = text.count("size mismatch")
        faults = [
            *([f"{sizes} tensors have other sizes"] if sizes else []),
            *(["some are missing"] if "Missing key" in text else []),
            *(["some are unknown to it"] if "Unexpected key" in text else []),
        ]
        return (
            f"{path} contains the weights of another model than {model}: {', '.join(faults)}. Choose the model of these "
            "weights."
        )
    return (
        f"{path} contains other objects besides its tensors, such as settings or an optimiser. They are not read, because "
        "that could execute code. If you trust the file, save only its tensors:\n"
        f"  python -c \"import torch; saved = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        "torch.save({'state_dict': saved.get('state_dict', saved)}, 'weights.pt')\""
    )
