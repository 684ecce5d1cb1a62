"""Time reading and preprocessing JPEG files in one process with torchcodec and with PIL, and compare features.

The JPEGs are synthetic, with ImageNet's usual size; the preprocessing is that of ViT-B/16. The cosine compares features of
the real small CLIP on the real textures, if these are beside the checkout.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from harness import SHARED, Row, Skip, take_turns, text_of, write_jpegs
from open_clip.transform import PreprocessCfg, image_transform_v2

from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.decoders import PilReader, TorchcodecReader, pixel_reader
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.errors import UsageError

LEAST_COSINE = 0.9995


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--decoder-count", type=int, default=64, help="JPEG files")
    parser.add_argument("--decoder-repeats", type=int, default=5)


def measure(args: argparse.Namespace) -> list[Row]:
    if not (SHARED / "assets").is_dir():
        raise Skip(f"{SHARED / 'assets'} does not exist")
    model = ModelConfig(name=f"local-dir:{SHARED / 'assets' / 'models' / 'lite-clip'}", pretrained=None)
    clip = load_clip(model, choose_compute("cpu"))
    try:
        fast = pixel_reader(clip, "torchcodec")
    except UsageError as error:
        raise Skip(str(error)) from error
    slow = pixel_reader(clip, "pil")
    photos = sorted((SHARED / "assets" / "images" / "textures").rglob("*.jpg"))[::3]
    with torch.inference_mode():
        ours, theirs = (clip.encode_images(torch.stack([read(p) for p in photos])) for read in (fast, slow))
    cosines = (ours * theirs).sum(-1)

    assert isinstance(fast, TorchcodecReader)
    config = PreprocessCfg()
    usual = PilReader(image_transform_v2(config, is_train=False), "benchmark")
    quick = replace(fast, others=usual, size=(224, 224))
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), args.decoder_count)

        def with_torchcodec() -> None:
            for path in paths:
                quick(path)

        def with_pil() -> None:
            for path in paths:
                usual(path)

        turns = take_turns(with_torchcodec, with_pil, repeats=args.decoder_repeats, device=torch.device("cpu"))
    return [
        Row(
            f"reading {args.decoder_count} JPEGs with torchcodec",
            text_of(turns.ours),
            f"PIL {text_of(turns.reference)}",
            f"{turns.speedup:.1f}x",
            "",
            None,
        ),
        Row(
            f"- features of {len(photos)} textures, lowest cosine with PIL's",
            f"{cosines.min():.5f}",
            f"mean {cosines.mean():.6f}",
            "",
            f">= {LEAST_COSINE}",
            bool(cosines.min() >= LEAST_COSINE),
        ),
    ]
