"""The demonstration: the same steps on a small world of drawn shapes and a small CLIP that the package ships.

Nothing here is special but the data: train-positive, train-negative, evaluate and transfer run as they do for anybody. It
shows how the pieces fit, not how good the method is on real images.
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
"""Seed of the drawn images; the configured seed changes the training, not the world."""


@dataclass(frozen=True)
class Demo:
    """What the demonstration made.

    `model`: the name of the model that it used. `evaluation` is of the learned classes, `transferred` of novel names.
    """

    folder: Path
    model: str
    world: DemoWorld
    prompts: Prompts
    evaluation: Evaluation
    transferred: Evaluation


def run_demo(folder: Path, *, seed: int, overwrite: bool, progress: Progress) -> Demo:
    """Draw the world, train, evaluate, transfer and evaluate again, all below `folder`.

    Args:
        folder: where everything goes.
        seed: of sampling, starts and batches.
        overwrite: whether files of an earlier demonstration may be replaced.
        progress: told how it goes.

    Raises:
        UsageError: `folder` holds files and `overwrite` is false.
        NegPromptError: the disk is full.
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
    # It is over in a minute: an interrupted one starts afresh, and no mention of its checkpoint.
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
    """The world in `folder`; one that exists is complete, because it appears complete or not at all."""
    if folder.exists():
        return DemoWorld.at(folder)
    return write_world(folder, seed=WORLD_SEED)
