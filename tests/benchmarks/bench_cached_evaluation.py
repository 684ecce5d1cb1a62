"""Time the whole command of an evaluation with cached features, compared with importing torch and loading the model.

It needs the real small CLIP and images beside the checkout. A short training that is not timed makes the prompts, and a
first evaluation fills a cache in a temporary folder. Each run is a separate process; the two jobs alternate.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from harness import SHARED, Row, Skip, take_turns, text_of

TARGET = 1.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cached-classes", type=int, default=100)
    parser.add_argument("--cached-repeats", type=int, default=5)


def measure(args: argparse.Namespace) -> list[Row]:
    model = f"local-dir:{SHARED / 'assets' / 'models' / 'lite-clip'}"
    images = SHARED / "assets" / "images"
    if not images.is_dir():
        raise Skip(f"{images} does not exist")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        environment = {**os.environ, "NEGPROMPT_CACHE": str(Path(folder) / "cache")}
        common = ["--data", f"{images / 'tiny-imagenet'}#0-{args.cached_classes - 1}", "--run", str(run), "-q"]
        chosen = ["--model", model, "--device", args.device]

        def command(*words: str) -> None:
            subprocess.run(
                [sys.executable, "-m", "negprompt_cli", *words], check=True, capture_output=True, env=environment
            )

        def evaluate() -> None:
            ood = f"{images / 'textures'},{images / 'cifar10'}"
            command("evaluate", *common, "--device", args.device, "--ood", ood, "--overwrite")

        def load() -> None:
            program = f"import torch, open_clip; open_clip.create_model({model!r}); open_clip.get_tokenizer({model!r})"
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

        few = ["--epochs", "2"]
        command("train-negative", "--positive", "zero-shot", *common, *chosen, *few)
        # `take_turns` runs a first evaluation as warm-up, which encodes the images and fills the cache.
        turns = take_turns(evaluate, load, repeats=args.cached_repeats, device=torch.device("cpu"))
    ratio = 1 / turns.speedup
    return [
        Row(
            f"evaluation from cached features, {args.cached_classes} classes",
            text_of(turns.ours),
            f"importing torch and loading the model {text_of(turns.reference)}",
            f"{ratio:.2f}",
            f"<= {TARGET:g}",
            ratio <= TARGET,
        )
    ]
