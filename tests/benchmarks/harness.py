"""Code that the benchmarks share: rows of the table, alternating runs, random models and images of realistic size."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

SHARED = Path(__file__).resolve().parents[3] / "shared"


class Skip(Exception):
    """The benchmark cannot run here; the message says why."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what is measured, the results of the package and the reference, their ratio, and the target.

    `met` is None if there is no target.
    """

    what: str
    ours: str
    reference: str
    ratio: str
    target: str
    met: bool | None


@dataclass(frozen=True)
class Turns:
    """Median seconds of two alternating jobs, and the median ratio reference / ours of the pairs."""

    ours: float
    reference: float
    speedup: float


def take_turns(
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    repeats: int,
    device: torch.device,
    warm: bool = True,
) -> Turns:
    """Time two jobs alternately, so that a slow phase of the machine affects both; `warm` runs each once before."""
    pairs = [(seconds(ours, device), seconds(reference, device)) for _ in range(repeats + warm)][warm:]
    return Turns(
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
    )


def seconds(job: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of one run."""
    gc.collect()
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def as_installed() -> dict[str, str]:
    """The environment for a command that is timed: Python keeps its bytecode, as it does of an installed package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def vit_b16(device: torch.device) -> nn.Module:
    """Build ViT-B-16 with random weights, frozen."""
    import open_clip

    torch.manual_seed(0)
    model: nn.Module = open_clip.create_model("ViT-B-16").eval().requires_grad_(False).to(device)
    return model


def imagenet_names(count: int) -> list[str]:
    """Draw real ImageNet class names; above 1000 they repeat."""
    import open_clip

    names = list(open_clip.IMAGENET_CLASSNAMES)
    order = np.random.default_rng(0).permutation(len(names))
    return [names[order[i % len(names)]] for i in range(count)]


def write_jpegs(folder: Path, count: int, *, width: int = 500, height: int = 375) -> list[Path]:
    """Write smooth random JPEGs with ImageNet's usual size and about its bytes per image."""
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths


def text_of(value: float) -> str:
    """Write seconds in a readable unit."""
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def print_table(rows: Sequence[Row]) -> None:
    """Print rows as a Markdown table."""
    print("| what | ours | reference | ratio | target | met |\n|---|---|---|---|---|---|")
    for row in rows:
        met = {True: "yes", False: "NO", None: "-"}[row.met]
        print(f"| {row.what} | {row.ours} | {row.reference} | {row.ratio} | {row.target} | {met} |")
