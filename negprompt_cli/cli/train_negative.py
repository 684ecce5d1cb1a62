"""`negprompt train-negative`: stage 2."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import LOSS, OUTPUT, TRAINING, Common, Sampling, option
from negprompt_cli.cli.seeds import SeedsOption, parse_seeds, print_training_seeds
from negprompt_cli.cli.training import ResumeOption, print_training, resumable
from negprompt_cli.data.results.runs import NEGATIVE, POSITIVE, ZERO_SHOT
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
    asked = common.asked(sampling, options)
    folder = common.run_folder(asked)
    many = parse_seeds(seeds, common, out=out)
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile, seed_artifacts
    from negprompt_cli.steps.train_negative import run_train_negative

    each: Mapping[int, ArtifactFile | None] = seed_artifacts(folder, many or (), POSITIVE)
    named = Path(positive) if positive else None
    source = None if positive == ZERO_SHOT else common.artifact(asked, named, POSITIVE)
    if many and positive:
        each = dict.fromkeys(many, source)
    elif many:
        # The first seed's model stands for all.
        source = each[many[0]]
    config = source.configure(asked, "model", "positive") if source else asked.config()
    start_processes(config)
    more: dict[str, Any] = {"overwrite": common.overwrite, "progress": talk, "resume": resume}
    if many:
        from negprompt_cli.steps.seeds import train_negative_seeds

        with resumable():
            results = train_negative_seeds(config, folder, NEGATIVE, positives=each, **more)
        print_training_seeds(talk, results)
        return
    with resumable():
        result = run_train_negative(config, out or folder / NEGATIVE, positive=source, **more)
    print_training(talk, result)
