"""Time an exported detector: its first row against its imports, its speed against bare onnxruntime and against torch.

It needs the real small CLIP and the photographs of imagenette (160 pixels) beside the checkout; further JPEGs are synthetic,
with ImageNet's usual size, whose decoding costs more. A short training that is not timed makes the prompts. Bare onnxruntime
computes preloaded pixels with its own choice of threads and decodes nothing; the detector and torch read the files. The jobs
alternate.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import SHARED, Row, Skip, as_installed, seconds, take_turns, text_of, write_jpegs

from negprompt_cli.config import load_config
from negprompt_cli.progress import Silent

FIRST_ROW, OF_BARE, OF_TORCH = 3.0, 0.9, 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exported-count", type=int, default=192, help="JPEG files")
    parser.add_argument("--exported-batch", type=int, default=32, help="images of a batch of bare onnxruntime")
    parser.add_argument("--exported-repeats", type=int, default=5)


def until_first_row(file: Path, image: Path) -> None:
    line = [sys.executable, "-m", "negprompt_cli", "score", "--prompts", str(file), str(image), "-q"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, env=as_installed()) as process:
        assert process.stdout
        header, row = process.stdout.readline(), process.stdout.readline()
        assert header and row
        process.kill()


def measure(args: argparse.Namespace) -> list[Row]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Skip(f"{error.name} is not installed") from None
    from negprompt_cli.data.results.exported import open_exported
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile
    from negprompt_cli.steps.shared.exported import exported_model, make_exported_judge
    from negprompt_cli.steps.shared.scorer import ArtifactJudge, make_scorer, open_prompts
    from negprompt_cli.steps.shared.verdicts import Judge
    from negprompt_cli.steps.shared.workbench import Workbench

    model = f"local-dir:{SHARED / 'assets' / 'models' / 'lite-clip'}"
    images, photographs = (SHARED / "assets" / "images" / name for name in ("tiny-imagenet", "imagenette"))
    for needed in (images, photographs):
        if not needed.is_dir():
            raise Skip(f"{needed} does not exist")
    count, device = args.exported_count, torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        environment = {**os.environ, "NEGPROMPT_CACHE": str(Path(folder) / "cache")}

        def command(*words: object) -> None:
            line = [sys.executable, "-m", "negprompt_cli", *map(str, words)]
            subprocess.run(line, check=True, capture_output=True, env=environment)

        few = ("--positive", "zero-shot", "--epochs", 2, "--shots", 4)
        command("train-negative", "--data", f"{images}#0-9", "--model", model, "--run", run, *few)
        command("export", "--run", run)
        file, artifact = run / "negative.onnx", ArtifactFile(run / "negative.safetensors")
        every = sorted(photographs.rglob("*.JPEG"))
        sets = {
            "photographs of 160 x 160": every[:: max(1, len(every) // count)][:count],
            "JPEGs of 500 x 375": write_jpegs(Path(folder), count),
        }

        detector = open_exported(file)
        chosen = load_config(
            base={"model": exported_model(detector.metadata).model_dump()}, flags={"compute.cache": False}
        )
        bench = Workbench(chosen, Silent())
        by_torch = ArtifactJudge(bench, make_scorer(bench, open_prompts(bench, artifact)))
        ours = make_exported_judge(detector, chosen)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        pixels = np.random.default_rng(0).standard_normal(
            (args.exported_batch, 3, *detector.metadata.preprocessing.size)
        )
        pixels = pixels.astype(np.float32)

        def all_of(judge: Judge, files: list[Path]) -> None:
            for _ in judge.stream(files):
                pass

        def bare() -> None:
            for first in range(0, count, args.exported_batch):
                session.run(None, {"pixels": pixels[: min(args.exported_batch, count - first)]})

        rows = []
        for what, paths in sets.items():
            jobs = (partial(all_of, ours, paths), bare, partial(all_of, by_torch, paths))
            turns = [[seconds(job, device) for job in jobs] for _ in range(args.exported_repeats + 1)][1:]
            rows += rows_of(f"exported detector, {count} {what}, {ours.threads} threads", count, turns)
        first_row = take_turns(
            lambda: until_first_row(file, paths[0]),
            lambda: subprocess.run(
                [sys.executable, "-c", "import onnxruntime, numpy, PIL.Image"], check=True, env=as_installed()
            ),
            repeats=args.exported_repeats,
            device=device,
        )
    ratio = 1 / first_row.speedup
    return [
        *rows,
        Row(
            "exported detector, first row of one image",
            text_of(first_row.ours),
            f"importing onnxruntime, numpy and Pillow {text_of(first_row.reference)}",
            f"{ratio:.2f}",
            f"<= {FIRST_ROW:g}",
            ratio <= FIRST_ROW,
        ),
    ]


def rows_of(what: str, count: int, turns: list[list[float]]) -> list[Row]:
    """The two rows of one set of files, from the seconds of ours, of bare onnxruntime and of torch in each turn."""
    ours, bare, by_torch = (f"{count / statistics.median(side):.1f} images/s" for side in zip(*turns, strict=True))
    of_bare = statistics.median(b / a for a, b, _ in turns)
    of_torch = statistics.median(c / a for a, _, c in turns)
    return [
        Row(f"{what}, against bare onnxruntime", ours, bare, f"{of_bare:.2f}", f">= {OF_BARE:g}", of_bare >= OF_BARE),
        Row("the same against torch", ours, by_torch, f"{of_torch:.2f}", f">= {OF_TORCH:g}", of_torch >= OF_TORCH),
    ]
