"""`negprompt train-negative`: stage 2."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import Common, Training, option
from negprompt_cli.cli.seeds import SEEDS, parse_seeds
from negprompt_cli.cli.training import RESUME, print_trainings, resumable
from negprompt_cli.data.results.runs import NEGATIVE, POSITIVE, ZERO_SHOT
from negprompt_cli.loss_presets import LossName

EXAMPLES = (
    "negprompt train-negative --data imagenet",
    "negprompt train-negative --data photos --run runs/photos --negatives 4 --overwrite",
    "negprompt train-negative --data imagenet --positive zero-shot",
)


@dataclass(frozen=True)
class NegativeOptions:
    """Options of stage 2 only that belong to the configuration."""

    negatives: int | None = option("Negative prompts per class (default 2).", key="negative.count")
    loss: LossName | None = option(
        "Loss preset: separation (default), quoted or official.", key="negative.loss.name", metavar="NAME"
    )
    beta: float | None = option("Weight of the loss term NPD (negatives to positives).", key="negative.loss.beta")
    gamma: float | None = option("Weight of the loss term NND (between negatives).", key="negative.loss.gamma")


def train_negative(
    common: Common,
    training: Training,
    options: NegativeOptions,
    positive: str | None = option(
        "Positive artifact (default <run>/positive.safetensors), or zero-shot.", metavar="PATH"
    ),
    out: Path | None = option("Artifact to write (default <run>/negative.safetensors)."),
    seeds: str | None = SEEDS,
    resume: bool = RESUME,
) -> None:
    """Learn negative prompts from ID images only (stage 2).

    This reads positive.safetensors from the run folder, which `negprompt train-positive` wrote, and writes
    negative.safetensors into it. The next step is `negprompt evaluate` or `negprompt score`.
    """
    talk = common.talk()
    asked = common.asked(training, options, stage="negative")
    folder = common.run_folder(asked)
    many = parse_seeds(seeds, common, out=out)
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile, seed_artifacts

    each: Mapping[int, ArtifactFile | None] = seed_artifacts(folder, many or (), POSITIVE)
    named = Path(positive) if positive else None
    source = None if positive == ZERO_SHOT else common.artifact(asked, named, POSITIVE)
    if many and positive:
        each = dict.fromkeys(many, source)
    elif many:
        # All seeds use the model of the first seed.
        source = each[many[0]]
    config = source.configure(asked, "model", "positive") if source else asked.config()
    start_processes(config)
    from negprompt_cli.steps.seeds import train_negative_seeds
    from negprompt_cli.steps.shared.workbench import Workbench
    from negprompt_cli.steps.train_negative import run_train_negative

    bench, more = Workbench(config, talk), {"overwrite": common.overwrite, "resume": resume}
    with resumable():
        if many:
            results = train_negative_seeds(bench, folder, positives=each, **more)
        else:
            results = [run_train_negative(bench, out or folder / NEGATIVE, positive=source, **more)]
    print_trainings(talk, results, several=bool(many))
