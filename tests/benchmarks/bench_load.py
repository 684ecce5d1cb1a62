"""Measure peak memory and time of a whole evaluation command with a million images whose features are cached.

The images are hard links to a few small files, because the cache identifies an image by path, size and time. One half is in
class folders, the other half is OOD. Their features have the width of the small real CLIP; they are drawn around the class
prompts and put into the store through its interface. Nothing is decoded. The command runs in a separate process, whose
largest resident size the system reports.

    python tests/benchmarks/bench_load.py [--load-images N] [--load-classes K]     minutes, and 2.2 KB of disk an image
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from harness import SHARED, Row, Skip, print_table

from negprompt_cli.config import Config, ModelConfig
from negprompt_cli.data.encoding.feature_cache import FeatureStore, StoreKey, image_keys
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.results.artifacts import Prompts, save_prompts
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.progress import Silent

LINKS = 30_000
"""Number of hard links to one file; file systems allow about 65,000."""
SHARD = 4096
SPREAD = 1.5
"""Length of the noise around a class prompt of length 1, for ID images; OOD images are only noise."""

PROGRAM = """
import resource, sys
from negprompt_cli.cli import app
try:
    app(sys.argv[1:])
finally:
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, file=sys.stderr)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--load-images", type=int, default=1_000_000)
    parser.add_argument("--load-classes", type=int, default=100)


def measure(args: argparse.Namespace) -> list[Row]:
    model = SHARED / "assets" / "models" / "lite-clip"
    if not model.is_dir():
        raise Skip(f"{model} does not exist")
    clip = load_clip(ModelConfig(name=f"local-dir:{model}", pretrained=None), choose_compute("cpu"))
    # Names of folders are read as class names.
    names = [f"thing {i}" for i in range(args.load_classes)]
    classes = [name.replace(" ", "_") for name in names]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        each = args.load_images // 2 // len(classes)
        known = [folder / "known" / "val" / name for name in classes]
        for place in known:
            _link(place, each)
        _link(folder / "unknown", each * len(classes))
        texts = clip.encode_template(names, template="a photo of a {}.", budget=2**28)
        _fill(clip, folder, [(place, text) for place, text in zip(known, texts, strict=True)])
        path = _prompts(clip, classes, names, folder / "negative.safetensors")
        command = [
            "evaluate",
            "--data",
            str(folder / "known"),
            "--ood",
            str(folder / "unknown"),
            "--prompts",
            str(path),
        ]
        command += ["--run", str(folder / "run"), "--device", "cpu", "--json"]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *command],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "NEGPROMPT_CACHE": str(folder / "cache")},
        )
        took = time.perf_counter() - start
    document = json.loads(done.stdout)
    images = document["id"]["images"] + document["rows"][0]["images"]
    if "Encoding" in done.stderr or images != 2 * each * len(classes):
        raise RuntimeError(f"not an evaluation from cached features:\n{done.stderr}")
    peak, alone = int(done.stderr.split()[-1]), images * texts.shape[1] * 4
    scores = len({row["score"] for row in document["rows"]})
    return [
        Row(
            f"evaluation of {images} cached images, {len(classes)} classes, {scores} scores: time",
            f"{took:.0f} s",
            "-",
            f"{1e6 * took / images:.0f} µs an image",
            "-",
            None,
        ),
        Row(
            "- peak memory",
            f"{peak / 2**30:.2f} GiB",
            f"their features in float32, {alone / 2**30:.2f} GiB",
            f"{peak / alone:.2f}",
            "-",
            None,
        ),
    ]


def _link(folder: Path, count: int) -> None:
    """Fill a folder with names of `count` images."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        if number % LINKS == 0:
            source = folder / f"{number:07d}.png"
            Image.new("RGB", (1, 1)).save(source)
        else:
            os.link(source, folder / f"{number:07d}.png")


def _fill(clip: Clip, folder: Path, known: list[tuple[Path, torch.Tensor]]) -> None:
    """Put features of all images into the cache, shard by shard."""
    precision = str(clip.compute.dtype).removeprefix("torch.")
    key = StoreKey(str(clip.identity), clip.identity.weights_sha256, clip.preprocessing, precision)
    store = FeatureStore(key, progress=Silent(), root=folder / "cache")
    generator = torch.Generator().manual_seed(0)
    nothing = torch.zeros_like(known[0][1])
    for place, centre in [*known, (folder / "unknown", nothing)]:
        for paths in _shards(place):
            noise = torch.randn(len(paths), len(centre), generator=generator) * len(centre) ** -0.5
            features = torch.nn.functional.normalize(centre + SPREAD * noise, dim=-1)
            store.add(image_keys(paths), features)


def _shards(folder: Path) -> Iterator[list[Path]]:
    paths = sorted(folder.iterdir())
    for start in range(0, len(paths), SHARD):
        yield paths[start : start + SHARD]


def _prompts(clip: Clip, classes: list[str], names: list[str], path: Path) -> Path:
    """Make an artifact with word prompts as positives, and the same with noise as negatives."""
    positive = clip.word_context("a photo of a")[None]
    noise = torch.randn(2, *positive.shape[1:], generator=torch.Generator().manual_seed(0))
    prompts = Prompts(
        kind="negative",
        positive=positive,
        negative=positive + 0.05 * noise,
        classes=tuple(ClassLabel(key, name, None) for key, name in zip(classes, names, strict=True)),
        model=clip.identity,
        config=Config(model=ModelConfig(name=clip.identity.name, pretrained=None)),
        learned_on=len(classes),
    )
    save_prompts(prompts, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    print_table(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
