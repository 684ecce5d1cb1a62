"""Time image encoding by onnxruntime (`--runtime onnx`) and by torch on preloaded pixels; the two jobs alternate.

Models are the real small CLIP, which must be beside the checkout, and architectures with random weights.
"""

import argparse
from typing import Any

import torch
from harness import SHARED, Row, Skip, take_turns

from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.encoding.onnx_clip import run_by_onnx
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.engine.model_identity import ModelIdentity

CONVOLUTIONAL = 1.2
"""Smallest gain for a convolutional tower that justifies the runtime."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runtime-models", nargs="+", default=["lite-clip", "RN50", "ViT-B-16"], metavar="NAME")
    parser.add_argument("--runtime-batch", type=int, default=32)
    parser.add_argument("--runtime-repeats", type=int, default=5)


def measure(args: argparse.Namespace) -> list[Row]:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Skip(f"{error.name} is not installed") from None
    return [compare(name, args) for name in args.runtime_models]


def compare(name: str, args: argparse.Namespace) -> Row:
    clip = model(name)
    by_onnx = run_by_onnx(clip, keep=False)
    visual: Any = clip.model.visual
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(args.runtime_batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    turns = take_turns(
        lambda: by_onnx.encode_images(pixels),
        lambda: clip.encode_images(pixels),
        repeats=args.runtime_repeats,
        device=torch.device("cpu"),
    )
    convolutional = name != "ViT-B-16"
    return Row(
        f"image encoder {name}, onnxruntime against torch (differ by {by_onnx.difference:.0e})",
        f"{args.runtime_batch / turns.ours:.1f} images/s",
        f"{args.runtime_batch / turns.reference:.1f} images/s",
        f"{turns.speedup:.2f}",
        f">= {CONVOLUTIONAL:g}" if convolutional else "-",
        turns.speedup >= CONVOLUTIONAL if convolutional else None,
    )


def model(name: str) -> Clip:
    import open_clip

    compute = choose_compute("cpu")
    folder = SHARED / "assets" / "models" / "lite-clip"
    if name == "lite-clip":
        if not folder.is_dir():
            raise Skip(f"{folder} does not exist")
        return load_clip(ModelConfig(name=f"local-dir:{folder}", pretrained=None), compute)
    torch.manual_seed(0)
    return Clip.wrap(
        open_clip.create_model(name),
        preprocess=lambda image: image,
        preprocessing="benchmark",
        tokenizer=lambda *_a, **_k: torch.zeros(1, 77),
        identity=ModelIdentity(name, None, "0" * 64),
        compute=compute,
    )
