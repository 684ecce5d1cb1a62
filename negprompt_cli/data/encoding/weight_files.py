"""What is wrong with a file of weights that could not be loaded, told from the file itself.

open_clip and torch say it in many lines that name their own internals; a person needs to hear what the file is.
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
"""What open_clip calls a model's weights, in the order in which it looks for them in a folder."""


def chosen_weights(folder: Path) -> tuple[str, list[str]]:
    """The file of weights that open_clip takes of a model's folder, and the others there; no name where there is none.

    Raises:
        UsageError: there are several and none has a usual name, so that open_clip would take the first in the alphabet.
    """
    names = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    usual = [name for name in USUAL_NAMES if name in names]
    if len(names) > 1 and not usual:
        raise UsageError(
            f"{folder} holds {len(names)} files of weights, and their names do not say which are the model's: "
            f"{some_of(names)}. Keep one of them there, or call it {USUAL_NAMES[0]} (a safetensors file) or "
            f"{USUAL_NAMES[2]} (a file of torch)."
        )
    chosen = next(iter([*usual, *names]), "")
    return chosen, [name for name in names if name != chosen]


def folder_as_weights(folder: Path) -> UsageError:
    """The complaint about a folder in the place of a file of weights."""
    if (folder / "open_clip_config.json").is_file():
        return UsageError(
            f"{folder} is a folder with a model of its own, not a file of weights.",
            remedy="other-model",
            model=f"local-dir:{folder}",
        )
    inside = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    files = f" It holds {', '.join(inside[:5])}." if inside else ""
    return UsageError(f"{folder} is a folder, not a file of weights. Give the file itself.{files}")


def fault_of_weights(path: Path, model: str, error: Exception) -> str:
    """What is wrong with a file of weights and what to do, in whole sentences.

    Args:
        path: a file that open_clip could not load.
        model: the model it was loaded into.
        error: what was raised; its words are looked through, not repeated.
    """
    if path.suffix in (".npz", ".npy"):
        return f"{path} does not hold big_vision weights of {model}."
    try:
        file = read_tensors(path)
    except UsageError as unreadable:
        return str(unreadable)
    names = list(file.tensors)
    if file.other == "a TorchScript program":
        return f"{path} is a TorchScript program, as OpenAI's own files are; open_clip has these weights as the tag openai."
    if not names:
        return (
            f"{path} holds {file.other or 'no tensors'}, not a state dict. Save the tensors alone: "
            "torch.save(model.state_dict(), FILE)."
        )
    if any(name.rpartition(".")[2] in ("ctx", "ctx_positive") for name in names):
        return f"{path} is a prompt learner's checkpoint, not the weights of a CLIP. Import it as prompts."
    if any(name.startswith(("text_model.", "vision_model.")) for name in names):
        return (
            f"{path} holds weights with the names of Hugging Face's transformers, which open_clip does not read. Use the "
            "model's open_clip release."
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
            f"{path} holds the weights of another model than {model}: {', '.join(faults)}. Name the model they are of."
        )
    return (
        f"{path} holds other objects beside its tensors, such as settings or an optimiser. They are not read, because that "
        "could run code. Where you trust the file, save its tensors alone:\n"
        f"  python -c \"import torch; saved = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        "torch.save({'state_dict': saved.get('state_dict', saved)}, 'weights.pt')\""
    )
