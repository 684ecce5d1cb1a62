"""`negprompt train-negative`: stage 2."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.options import LOSS, OUTPUT, TRAINING, Common, Sampling, option
from negprompt_cli.cli.seeds import SeedsOption, parse_seeds, print_training_seeds, seed_source
from negprompt_cli.cli.training import ResumeOption, print_training, resumable
from negprompt_cli.data.results.runs import NEGATIVE, POSITIVE
from negprompt_cli.loss_presets import LOSS_PRESETS


@dataclass(frozen=True)
class NegativeOptions:
    """Options of stage 2 that belong to the configuration."""

    epochs: Annotated[
        int | None,
        option("--epochs", help="Passes over the images.", panel=TRAINING, key="negative.schedule.epochs", min=1),
    ] = None
    batch_size: Annotated[
        int | None,
        option("--batch-size", help="Images per step.", panel=TRAINING, key="negative.schedule.batch_size", min=1),
    ] = None
    classes_per_step: Annotated[
        int | None,
        option(
            "--classes-per-step",
            help="Each step sees images and prompts of N random classes; 0 for all.",
            panel=TRAINING,
            key="negative.schedule.classes_per_step",
            min=0,
        ),
    ] = None
    lr: Annotated[float | None, option("--lr", help="Learning rate.", panel=TRAINING, key="negative.schedule.lr")] = (
        None
    )
    keep: Annotated[
        str | None,
        option(
            "--keep", help="Epoch kept: last, or best on held-out ID.", panel=TRAINING, key="negative.schedule.keep"
        ),
    ] = None
    negatives: Annotated[
        int | None, option("--negatives", help="Negatives per class.", panel=LOSS, key="negative.count", min=1)
    ] = None
    loss: Annotated[
        str | None,
        option("--loss", help=f"Preset: {', '.join(LOSS_PRESETS)}.", panel=LOSS, key="negative.loss.name"),
    ] = None
    beta: Annotated[
        float | None,
        option("--beta", help="Weight of negative-positive distance.", panel=LOSS, key="negative.loss.beta"),
    ] = None
    gamma: Annotated[
        float | None,
        option("--gamma", help="Weight of negative-negative distance.", panel=LOSS, key="negative.loss.gamma"),
    ] = None


def train_negative(
    common: Common,
    sampling: Sampling,
    options: NegativeOptions,
    positive: Annotated[
        str | None,
        option(
            "--positive", help="Positive artifact, or zero-shot (default <run>/positive.safetensors).", panel=TRAINING
        ),
    ] = None,
    out: Annotated[
        Path | None, option("--out", help="Artifact (default <run>/negative.safetensors).", panel=OUTPUT)
    ] = None,
    seeds: SeedsOption = None,
    resume: ResumeOption = False,
) -> None:
    """Learn negative prompts with ID images only (stage 2).

    Reads positive.safetensors of the run folder and writes negative.safetensors beside it.
    """
    talk = Talk(quiet=common.quiet, as_json=common.json)
    config = common.resolve(sampling, options)
    folder = common.run_folder(config)
    many = parse_seeds(seeds, common, out=out)
    source = positive or str(seed_source(folder, many, POSITIVE) if many else folder / POSITIVE)
    from negprompt_cli.steps.shared.base import artifact_base
    from negprompt_cli.steps.shared.preflight import ZERO_SHOT, require_named
    from negprompt_cli.steps.train_negative import run_train_negative

    if positive is not None and positive != ZERO_SHOT:
        require_named(Path(positive))

    config = common.resolve(sampling, options, base=artifact_base(Path(source), sections=("model", "positive")))
    more: dict[str, Any] = {"overwrite": common.overwrite, "progress": talk, "resume": resume}
    if many:
        from negprompt_cli.steps.seeds import train_negative_seeds

        names: dict[str, Any] = {"positive": positive, "positive_name": POSITIVE}
        with resumable():
            results = train_negative_seeds(config, folder, NEGATIVE, seeds=many, **names, **more)
        print_training_seeds(talk, results)
        return
    with resumable():
        result = run_train_negative(config, out or folder / NEGATIVE, positive=source, **more)
    print_training(talk, result)
