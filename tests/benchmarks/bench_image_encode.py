"""Time image encoding from JPEG files, compared with its two parts: the encoder on preloaded batches, and decoding alone.

The model is ViT-B/16 with random weights; synthetic JPEGs of ImageNet's usual size are written to a temporary folder;
features are not cached. Decoding alone uses the same loader with the same workers but no encoder. The three jobs alternate.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from harness import Row, seconds, vit_b16, write_jpegs
from open_clip.transform import PreprocessCfg, image_transform_v2

from negprompt_cli.data.encoding.batches import Reading, run_batches, worker_count
from negprompt_cli.data.encoding.features import EncodeOptions, encode_images
from negprompt_cli.data.sets.imagepaths import ImagePaths
from negprompt_cli.data.sets.imagesets import ImageSet
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.engine.model_identity import ModelIdentity
from negprompt_cli.progress import Silent

TARGET = 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-count", type=int, default=0, help="JPEG files; 0 is 96 on a CPU, 4096 on a GPU")
    parser.add_argument("--image-batch", type=int, default=0, help="0 is the package's choice")
    parser.add_argument("--image-workers", type=int, default=-1, help="-1 is the package's choice")
    parser.add_argument("--image-repeats", type=int, default=3)


def measure(args: argparse.Namespace) -> list[Row]:
    compute = choose_compute(args.device)
    config = PreprocessCfg()
    clip = Clip.wrap(
        vit_b16(torch.device("cpu")),
        preprocess=image_transform_v2(config, is_train=False),
        preprocessing="benchmark",
        tokenizer=lambda *_a, **_k: torch.zeros(1, 77),
        identity=ModelIdentity("ViT-B-16", None, "0" * 64),
        compute=compute,
    )
    on_cpu = compute.device.type == "cpu"
    count = args.image_count or (96 if on_cpu else 4096)
    batch = args.image_batch or (32 if on_cpu else 256)
    workers = args.image_workers if args.image_workers >= 0 else worker_count()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), count)
        images = ImageSet(
            spec="benchmark",
            name="benchmark",
            paths=ImagePaths(Path(folder), [p.name for p in paths]),
            labels=np.zeros(count, dtype=np.int64),
            classes=(),
            root=Path(folder),
            layout="benchmark",
            decisions=(),
        )
        options = EncodeOptions(batch_size=args.image_batch, workers=args.image_workers, cache=False)
        pixels = torch.randn(batch, 3, 224, 224)

        def whole() -> None:
            encode_images(clip, images, options, Silent())

        def encode() -> None:
            for first in range(0, count, batch):
                clip.encode_images(pixels[: min(batch, count - first)])

        def decode() -> None:
            batches = [paths[first : first + batch] for first in range(0, count, batch)]
            for _ in run_batches(clip, batches, lambda clip, pixels: {}, Reading(workers)):
                pass

        device = compute.device
        turns = [[seconds(job, device) for job in (whole, encode, decode)] for _ in range(args.image_repeats + 1)][1:]
    ours, encoder, decoder = (statistics.median(side) for side in zip(*turns, strict=True))
    share = statistics.median(max(e, d) / w for w, e, d in turns)
    return [
        Row(
            f"image encoding, {count} JPEGs, batch {batch}, {workers} workers",
            f"{count / ours:.1f} images/s",
            f"encoder {count / encoder:.1f}, decoding {count / decoder:.1f} images/s",
            f"{share:.2f}",
            f">= {TARGET:g}",
            share >= TARGET,
        )
    ]
