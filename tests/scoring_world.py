"""What the tests of scoring share: the package's small model, an artifact for it that needs no training, a few images."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from negprompt_cli.cli import app
from negprompt_cli.config import ModelConfig, load_config
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.results.artifacts import Calibration, Prompts, save_prompts
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.demo.model import unpack_model
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.workbench import Workbench

NAMES = ("red circle", "green square", "blue triangle")


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env={"COLUMNS": "200", "NO_COLOR": "1"})


@cache
def small_clip(folder: Path) -> Clip:
    """The package's small CLIP, unpacked to `folder`."""
    return load_clip(ModelConfig(name=f"local-dir:{unpack_model(folder)}", pretrained=None), choose_compute("cpu"))


def bench_of(clip: Clip) -> Workbench:
    """A workbench around a model that is loaded already."""
    config = load_config(flags={"model.name": clip.identity.name, "model.pretrained": None, "compute.workers": 0})
    return Workbench(config, Silent(), clip=clip)


def make_prompts(clip: Clip, *, negatives: int = 2, classes: tuple[str, ...] = NAMES) -> Prompts:
    """Words for positives, noise around them for negatives."""
    positive = clip.word_context("a photo of a")[None]
    noise = torch.randn(negatives, *positive.shape[1:], generator=torch.Generator().manual_seed(0))
    return Prompts(
        kind="negative" if negatives else "positive",
        positive=positive,
        negative=positive + 0.05 * noise if negatives else None,
        classes=tuple(ClassLabel(name.replace(" ", "_"), name, None) for name in classes),
        model=clip.identity,
        config=bench_of(clip).config,
        learned_on=len(classes),
    )


def calibrated(prompts: Prompts, threshold: float, score: str = "negprompt") -> Prompts:
    """The same prompts with a threshold that nobody measured."""
    made = Calibration(
        score=score,
        temperature=1.0,
        template="a photo of a {}.",
        threshold=threshold,
        acceptance=0.95,
        accepted=95,
        images=100,
        low=0.89,
        high=0.98,
        confidence=0.95,
        data="nothing",
        files_sha256="",
        # Ascending, five of them below the threshold.
        scores=tuple(threshold + (i - 5) / 1000 for i in range(100)),
    )
    return replace(prompts, calibration=made)


def write_artifact(prompts: Prompts, path: Path) -> Path:
    save_prompts(prompts, path)
    return path


def write_images(folder: Path, count: int, *, seed: int = 0, suffix: str = ".png") -> list[Path]:
    """Random blotches, different from each other and from those of another seed."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths = [folder / f"{number:03d}{suffix}" for number in range(count)]
    for path in paths:
        blotches = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blotches).resize((40, 30)).save(path)
    return paths


def write_photos(folder: Path, count: int, *, suffix: str = ".png") -> Path:
    """A folder of class folders, `count` images of each of `NAMES`."""
    for seed, name in enumerate(NAMES):
        write_images(folder / name.replace(" ", "_"), count, seed=seed, suffix=suffix)
    return folder


def write_broken(folder: Path) -> list[Path]:
    """Files that are no images, each in a way of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (good,) = write_images(folder / "source", 1)
    data = good.read_bytes()
    (jpeg,) = write_images(folder / "source", 1, suffix=".jpg")
    photo = jpeg.read_bytes()
    bomb = Image.new("1", (14_000, 14_000))
    bomb.save(folder / "bomb.png")
    contents = {
        "empty.png": b"",
        "one-byte.png": b"\x89",
        "text.jpg": b"this is not an image\n",
        "html.jpg": b"<!doctype html><title>404</title>",
        "cut-header.png": data[:20],
        "cut-middle.png": data[: len(data) // 2],
        "cut-end.png": data[:-30],
        "cut.jpg": photo[: len(photo) // 2],
        "only-start.jpg": photo[:4],
        "zeros.png": bytes(5000),
        "zeros.jpg": photo[:2] + bytes(5000),
        "noise.gif": np.random.default_rng(0).bytes(3000),
        "gif-header.gif": b"GIF89a",
        "bmp-header.bmp": b"BM" + bytes(40),
        "webp-header.webp": b"RIFF\x10\x00\x00\x00WEBPVP8 ",
        "tiff-header.tif": b"II*\x00\x08\x00\x00\x00",
        "flipped.png": data[:40] + bytes(b ^ 255 for b in data[40:60]) + data[60:],
        "pgm.pgm": b"P5 99 99 255\n123",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    good.unlink()
    jpeg.unlink()
    (folder / "source").rmdir()
    return sorted(p for p in folder.iterdir())
