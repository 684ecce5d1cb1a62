"""The demo: the paper's steps on small generated images, with a small CLIP from the package.

Only the data are special: train-positive, train-negative, evaluate and transfer run as usual. The demo shows how the steps
work together, not how good the method is on real images.
"""

from dataclasses import dataclass
from pathlib import Path

from negprompt_cli.config import load_config
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.results.checkpoints import checkpoint_path
from negprompt_cli.data.results.runs import EVALUATION, NEGATIVE, POSITIVE, transfer_name
from negprompt_cli.data.sets.class_list import novel_names, read_class_list
from negprompt_cli.demo.images import DemoWorld, write_world
from negprompt_cli.demo.model import unpack_model
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Progress
from negprompt_cli.steps.evaluate import Evaluation, run_evaluate
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.steps.train_negative import run_train_negative
from negprompt_cli.steps.train_positive import run_train_positive
from negprompt_cli.steps.transfer import run_transfer

WORLD_SEED = 0
"""Seed of the generated images; the configured seed changes only the training."""


@dataclass(frozen=True)
class Demo:
    """The result of the demo.

    `model`: name of its model. `evaluation` is that of the learned classes, `transferred` that of new class names.
    """

    folder: Path
    model: str
    world: DemoWorld
    prompts: Prompts
    evaluation: Evaluation
    transferred: Evaluation


def run_demo(folder: Path, *, seed: int, overwrite: bool, progress: Progress) -> Demo:
    """Generate images, train, evaluate, transfer and evaluate again; all files are in `folder`.

    Args:
        folder: the folder for all files.
        seed: random seed of sampling, initialisation and batch order.
        overwrite: whether files of an earlier demo may be replaced.

    Raises:
        UsageError: `folder` has files and `overwrite` is false.
    """
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise UsageError(f"{folder} is not empty.", remedy="overwrite")
    model = f"local-dir:{unpack_model(folder / 'model')}"
    world = _draw(folder / "data")
    flags = {"seed": seed, "model.name": model, "model.pretrained": None}
    ood = (str(world.near), str(world.far_digits), str(world.far_photos))
    config = load_config("demo", flags={**flags, "data.spec": str(world.shapes), "evaluate.ood": ood})
    bench = Workbench(config, progress)
    positive, negative = folder / POSITIVE, folder / NEGATIVE
    # A demo takes less than a minute, so an interrupted one starts again without resuming.
    for out in (positive, negative):
        checkpoint_path(out).unlink(missing_ok=True)
    run_train_positive(bench, positive, overwrite=overwrite)
    trained = run_train_negative(bench, negative, positive=ArtifactFile(positive), overwrite=overwrite)
    artifact = ArtifactFile(negative)
    evaluation = run_evaluate(bench, folder / EVALUATION, artifact=artifact, overwrite=overwrite)
    novel = folder / transfer_name(world.novel_names.stem)
    names = novel_names(read_class_list(world.novel_names))
    run_transfer(bench, novel, artifact=artifact, names=names, extend=False, overwrite=overwrite)
    again = load_config("demo", flags={**flags, "data.spec": str(world.novel), "evaluate.ood": ood[1:]})
    out = folder / f"evaluation-{world.novel_names.stem}.json"
    transferred = run_evaluate(bench.with_config(again), out, artifact=ArtifactFile(novel), overwrite=overwrite)
    return Demo(folder, model, world, trained.prompts, evaluation, transferred)


def _draw(folder: Path) -> DemoWorld:
    """The generated images in `folder`. If they exist they are complete, because they are written atomically."""
    if folder.exists():
        return DemoWorld.at(folder)
    return write_world(folder, seed=WORLD_SEED)
