"""`negprompt calibrate`: the threshold that accepts a chosen share of ID images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from negprompt_cli import schemas
from negprompt_cli.cli import completion
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import PROMPTS, Common, Without, flag, option
from negprompt_cli.data.results.runs import NEGATIVE
from negprompt_cli.wording import percent

if TYPE_CHECKING:
    from negprompt_cli.config import Asked
    from negprompt_cli.data.results.artifacts import Calibration
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile

EXAMPLES = (
    "negprompt calibrate --data photos --run runs/photos",
    "negprompt calibrate --data photos --acceptance 0.99 --overwrite",
)


@dataclass(frozen=True)
class ThresholdOptions:
    """Options of the choice of a threshold."""

    acceptance: float = option("Share of ID images to accept (default 0.95).", default=0.95)
    confidence: float = option("Confidence of the interval for that share (default 0.95).", default=0.95)
    score: str | None = option(
        "ID score for the threshold (default negprompt; mcm without negatives).", autocompletion=completion.scores
    )
    by_class: bool = flag("Also choose a threshold for each class with enough images.")


def calibrate(
    common: Annotated[Common, Without("data", "verbose")],
    threshold: ThresholdOptions,
    prompts: Path | None = PROMPTS,
    data: str | None = option("ID data (default: the artifact's training data).", metavar="SPEC"),
    out: Path | None = option("Artifact to write (default: the same artifact)."),
) -> None:
    """Choose the threshold that accepts a share of ID images.

    The images are those that training does not use: val/ or test/ of the ID data, or the other half of each class. The
    threshold is stored in the artifact.
    """
    talk = common.talk()
    asked = common.asked({} if data is None else {"data.spec": data})
    source = common.artifact(asked, prompts, NEGATIVE)
    from negprompt_cli.steps.calibrate import run_calibrate
    from negprompt_cli.steps.shared.thresholds import CalibrateOptions
    from negprompt_cli.steps.shared.workbench import Workbench

    if asked.given("data.spec") is None and not source.missing:
        asked = _with_data_of(source, asked)
        talk.say(f"The artifact was trained on {asked.spec}, so its held-out images are used. --data names other data.")
    config = source.configure(asked, "model")
    start_processes(config)
    result = run_calibrate(
        Workbench(config, talk),
        out or source.path,
        artifact=source,
        options=CalibrateOptions(**vars(threshold)),
        overwrite=common.overwrite,
    )
    print_calibration(talk.line, result.calibration)
    talk.result(
        result.path,
        {
            "schema": schemas.CALIBRATION,
            "path": str(result.path),
            "sha256": result.prompts.sha256,
            "versions": dict(result.prompts.written_with),
            **result.calibration.model_dump(),
        },
    )


def _with_data_of(source: "ArtifactFile", asked: "Asked") -> "Asked":
    """The settings asked for, with the place of the artifact's training data."""
    known = source.prompts.config.data
    keys = {f"data.{key}": getattr(known, key) for key in ("spec", "root", "catalogue", "class_names")}
    return asked.over({key: value for key, value in keys.items() if asked.given(key) is None})


def print_calibration(write: Callable[[str], None], made: "Calibration") -> None:
    """Print a threshold and the interval of its acceptance."""
    write(
        f"An image is ID if its score {made.score} is at least {made.threshold:.6g}. This accepts {made.accepted} of "
        f"{made.images} held-out ID images ({percent(made.accepted / made.images)} %), and {percent(made.low)} to "
        f"{percent(made.high)} % of new ID images ({100 * made.confidence:g} % confidence)."
    )
    if made.by_class:
        write(f"{len(made.by_class)} classes have enough held-out images for a threshold of their own.")
