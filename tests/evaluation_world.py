"""A tiny trained run for tests of evaluation: three ID classes and an OOD set of random images, a random tiny CLIP."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from negprompt_cli.config import Config, load_config
from negprompt_cli.engine.clip import Clip
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.steps.train_negative import run_train_negative
from negprompt_cli.steps.train_positive import run_train_positive

CLASSES = ("cat", "dog", "red fox")
TRAIN, EVAL, OOD = 4, 5, 7


@dataclass(frozen=True)
class World:
    """Folders of images, and a run folder with positive.safetensors and negative.safetensors."""

    folder: Path
    clip: Clip
    config: Config

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def prompts(self) -> Path:
        return self.run / "negative.safetensors"

    @property
    def artifact(self) -> ArtifactFile:
        return ArtifactFile(self.prompts)

    def bench(self, progress: Silent | None = None, **evaluate: object) -> Workbench:
        """A workbench with the tiny model, with keys of the evaluation section set."""
        settings = self.config.evaluate.model_copy(update=evaluate)
        return workbench(self.config.model_copy(update={"evaluate": settings}), self.clip, progress)


def workbench(config: Config, clip: Clip, progress: Silent | None = None) -> Workbench:
    """A workbench that finds its model loaded already."""
    return Workbench(config, progress or Silent(), clip=clip, remember=True)


def images(folder: Path, count: int, seed: int) -> None:
    """Write random images of coarse blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        blocks = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{i}.png")


def make_world(folder: Path, clip: Clip) -> World:
    """Draw the images and train both stages for one step."""
    for i, name in enumerate(CLASSES):
        images(folder / "pets" / "train" / name, TRAIN, 10 * i)
        images(folder / "pets" / "val" / name, EVAL, 10 * i + 1)
    images(folder / "noise", OOD, 99)
    schedule = {"epochs": 1, "sgd.batch_size": 4, "sgd.lr": 0.1}
    config = load_config(
        flags={
            "data.spec": str(folder / "pets"),
            "data.shots": 3,
            "evaluate.ood": [str(folder / "noise")],
            "compute.cache": False,
            "compute.workers": 0,
            **{f"{stage}.schedule.{k}": v for stage in ("positive", "negative") for k, v in schedule.items()},
        }
    )
    world = World(folder, clip, config)
    train(world, world.run)
    return world


def train(world: World, run: Path, *, seed: int = 0) -> None:
    """Train both stages into a run folder."""
    config = world.config.model_copy(update={"seed": seed})
    bench = workbench(config, world.clip)
    positive = run / "positive.safetensors"
    run_train_positive(bench, positive, overwrite=True)
    run_train_negative(bench, run / "negative.safetensors", positive=ArtifactFile(positive), overwrite=True)
