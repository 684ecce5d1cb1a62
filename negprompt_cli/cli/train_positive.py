"""`negprompt train-positive`: stage 1."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import OUTPUT, TRAINING, Common, Sampling, option
from negprompt_cli.cli.seeds import SeedsOption, parse_seeds, print_training_seeds
from negprompt_cli.cli.training import ResumeOption, print_training, resumable
from negprompt_cli.data.results.runs import POSITIVE


@dataclass(frozen=True)
class PositiveOptions:
    """Options of stage 1 that belong to the configuration."""

    context_init: Annotated[
        str | None,
        option("--context-init", help="words or random.", panel=TRAINING, key="positive.context.init"),
    ] = None
    context_words: Annotated[
        str | None,
        option("--context-words", help="Words the context starts from.", panel=TRAINING, key="positive.context.words"),
    ] = None
    context_length: Annotated[
        int | None,
        option(
            "--context-length",
            help="Vectors of a random context.",
            panel=TRAINING,
            key="positive.context.length",
            min=1,
        ),
    ] = None
    class_specific: Annotated[
        bool | None,
        option(
            "--class-specific/--class-shared",
            help="A context for each class, or one for all (which transfers).",
            panel=TRAINING,
            key="positive.context.class_specific",
        ),
    ] = None
    epochs: Annotated[
        int | None,
        option("--epochs", help="Passes over the images.", panel=TRAINING, key="positive.schedule.epochs", min=1),
    ] = None
    batch_size: Annotated[
        int | None,
        option("--batch-size", help="Images per step.", panel=TRAINING, key="positive.schedule.batch_size", min=1),
    ] = None
    classes_per_step: Annotated[
        int | None,
        option(
            "--classes-per-step",
            help="Each step sees images and prompts of N random classes; 0 for all.",
            panel=TRAINING,
            key="positive.schedule.classes_per_step",
            min=0,
        ),
    ] = None
    lr: Annotated[float | None, option("--lr", help="Learning rate.", panel=TRAINING, key="positive.schedule.lr")] = (
        None
    )
    keep: Annotated[
        str | None,
        option(
            "--keep", help="Epoch kept: last, or best on held-out ID.", panel=TRAINING, key="positive.schedule.keep"
        ),
    ] = None


def train_positive(
    common: Common,
    sampling: Sampling,
    options: PositiveOptions,
    out: Annotated[
        Path | None, option("--out", help="Artifact (default <run>/positive.safetensors).", panel=OUTPUT)
    ] = None,
    seeds: SeedsOption = None,
    resume: ResumeOption = False,
) -> None:
    """Learn positive prompts from a few ID images per class (stage 1).

    Writes positive.safetensors into the run folder; `negprompt train-negative` goes on from there.
    """
    asked = common.asked(sampling, options)
    config = asked.config()
    start_processes(config)
    talk = Talk(quiet=common.quiet, as_json=common.json)
    many = parse_seeds(seeds, common, out=out)
    more: dict[str, Any] = {"overwrite": common.overwrite, "progress": talk, "resume": resume}
    if many:
        from negprompt_cli.steps.seeds import train_positive_seeds

        with resumable():
            results = train_positive_seeds(config, common.run_folder(asked), POSITIVE, seeds=many, **more)
        print_training_seeds(talk, results)
        return
    from negprompt_cli.steps.train_positive import run_train_positive

    with resumable():
        result = run_train_positive(config, out or common.run_folder(asked) / POSITIVE, **more)
    print_training(talk, result)
