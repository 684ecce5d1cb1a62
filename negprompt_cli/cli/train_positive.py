"""`negprompt train-positive`: stage 1."""

from dataclasses import dataclass
from pathlib import Path

from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import Common, Training, option
from negprompt_cli.cli.seeds import SEEDS, parse_seeds
from negprompt_cli.cli.training import RESUME, print_trainings, resumable
from negprompt_cli.data.results.runs import POSITIVE
from negprompt_cli.errors import UsageError

EXAMPLES = (
    "negprompt train-positive --data imagenet --shots 16",
    "negprompt train-positive --data photos --run runs/photos --seeds 1,2,3",
    "negprompt train-positive --data imagenet --config paper --resume",
)


@dataclass(frozen=True)
class PositiveOptions:
    """Options of stage 1 only that belong to the configuration."""

    context_words: str | None = option(
        "Initial words of the context (default 'a photo of a').", key="positive.context.words", metavar="WORDS"
    )
    context_length: int | None = option("Start with N random vectors instead of words.", key="positive.context.length")


def train_positive(
    common: Common,
    training: Training,
    options: PositiveOptions,
    out: Path | None = option("Artifact to write (default <run>/positive.safetensors).", metavar="FILE"),
    seeds: str | None = SEEDS,
    resume: bool = RESUME,
) -> None:
    """Learn positive prompts from a few ID images (stage 1).

    This writes positive.safetensors into the run folder. The next step is `negprompt train-negative`. If you want a detector
    for your own images, use `negprompt fit`, which runs both stages.
    """
    if options.context_words is not None and options.context_length is not None:
        raise UsageError(
            "Pass --context-words or --context-length, not both: a context starts with words or with random vectors."
        )
    start = {} if options.context_length is None else {"positive.context.init": "random"}
    asked = common.asked(training, options, start, stage="positive")
    config = asked.config()
    start_processes(config)
    talk = common.talk()
    many = parse_seeds(seeds, common, out=out)
    from negprompt_cli.steps.seeds import train_positive_seeds
    from negprompt_cli.steps.shared.workbench import Workbench
    from negprompt_cli.steps.train_positive import run_train_positive

    bench, folder = Workbench(config, talk), common.run_folder(asked)
    more = {"overwrite": common.overwrite, "resume": resume}
    with resumable():
        if many:
            results = train_positive_seeds(bench, folder, seeds=many, **more)
        else:
            results = [run_train_positive(bench, out or folder / POSITIVE, **more)]
    print_trainings(talk, results, several=bool(many))
