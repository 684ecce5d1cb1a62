"""Time whole commands whose features are cached, `evaluate` and `score` on one image, compared with importing torch alone.

It needs the real small CLIP and images beside the checkout. A short training that is not timed makes the prompts, and the
first runs fill a cache in a temporary folder. Each run is a separate process; the three jobs alternate. The processor time
varies less than the wall time if other processes use the cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import SHARED, Row, Skip, as_installed, text_of

TARGET = 1.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cached-classes", type=int, default=10)
    parser.add_argument("--cached-repeats", type=int, default=9)


def measure(args: argparse.Namespace) -> list[Row]:
    images = SHARED / "assets" / "images"
    if not images.is_dir():
        raise Skip(f"{images} does not exist")
    textures = images / "textures"
    common = ["--model", f"local-dir:{SHARED / 'assets' / 'models' / 'lite-clip'}", "--device", args.device, "-q"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        environment = {**as_installed(), "NEGPROMPT_CACHE": str(Path(folder) / "cache")}

        def timed(*words: str) -> tuple[float, float]:
            """Run Python with these arguments; return its wall time and its processor time in seconds."""
            before, start = os.times(), time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment)
            wall, after = time.perf_counter() - start, os.times()
            spent = after.children_user + after.children_system - before.children_user - before.children_system
            return wall, spent

        def command(*words: str) -> list[str]:
            return ["-m", "negprompt_cli", *words, *common]

        own = ["--data", f"{images / 'tiny-imagenet'}#0-{args.cached_classes - 1}", "--run", str(run)]
        timed(*command("train-negative", "--positive", "zero-shot", "--epochs", "2", *own))
        one = min(path for path in textures.rglob("*") if path.is_file())
        jobs = {
            "torch": ["-c", "import torch"],
            f"evaluate, {args.cached_classes} classes": command(
                "evaluate", *own, "--ood", str(textures), "--overwrite"
            ),
            "score, one image": command("score", "--prompts", str(run / "negative.safetensors"), str(one)),
        }
        # The first of the runs fills the cache.
        runs = [{name: timed(*words) for name, words in jobs.items()} for _ in range(args.cached_repeats + 1)][1:]
    rows = []
    for name in list(jobs)[1:]:
        wall, processor = (statistics.median(r[name][which] / r["torch"][which] for r in runs) for which in (0, 1))
        ours, reference = (text_of(statistics.median(r[job][0] for r in runs)) for job in (name, "torch"))
        rows.append(
            Row(
                f"{name}, with cached features",
                ours,
                f"importing torch {reference}",
                f"{wall:.2f} (processor time {processor:.2f})",
                f"<= {TARGET:g}",
                wall <= TARGET,
            )
        )
    return rows
