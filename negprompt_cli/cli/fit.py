"""`negprompt fit`: a detector from a folder of images sorted by class."""

import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from negprompt_cli import schemas
from negprompt_cli.cli.calibrate import ThresholdOptions, print_calibration
from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import SHOTS, Common, argument, option
from negprompt_cli.cli.training import RESUME, resumable
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import percent, some_of

if TYPE_CHECKING:
    from negprompt_cli.steps.shared.correction_effect import Corrected

EXAMPLES = (
    "negprompt fit photos --run runs/photos --acceptance 0.99",
    "negprompt fit photos --run runs/photos --resume",
    "negprompt fit photos --run runs/corrected --corrections sorted",
)


@dataclass(frozen=True)
class FitOptions:
    """Options of `fit` that belong to the configuration."""

    folder: str | None = argument(
        "FOLDER", "Folder of class folders, or any SPEC that --data accepts.", key="data.spec", default=None
    )
    shots: int | None = SHOTS
    corrections: str | None = option(
        "Folder that score --sort-into made, in which you moved images to their classes.",
        key="data.corrections",
        metavar="DIR",
    )


def fit(common: Common, threshold: ThresholdOptions, options: FitOptions, resume: bool = RESUME) -> None:
    """Learn a detector from a folder of images sorted by class.

    The folder has one subfolder of images per class. The command runs both training stages, chooses a threshold, and writes
    a page about the images. At the end it prints the command that scores other images.
    """
    talk = common.talk()
    if options.folder is not None and common.data is not None:
        raise UsageError("The folder and --data mean the same thing. Give only one of them.")
    asked = common.asked(options)
    config = asked.config()
    start_processes(config)
    place = common.run_folder(asked)
    from negprompt_cli.steps.fit import run_fit
    from negprompt_cli.steps.shared.thresholds import CalibrateOptions
    from negprompt_cli.steps.shared.workbench import Workbench

    with resumable():
        bench, chosen = Workbench(config, talk), CalibrateOptions(**vars(threshold))
        result = run_fit(bench, place, options=chosen, overwrite=common.overwrite, resume=resume)
    made = result.prompts
    last, held = made.training[-1], result.held_out
    talk.say(
        f"{len(made.classes)} classes, {last.images} training images, {made.negatives_per_class} negatives per class. ID "
        f"accuracy: {percent(held.accuracy)} % of {held.images} held-out images, {percent(last.accuracy)} % in training."
    )
    lowest = sorted(held.classes.items(), key=lambda item: item[1].correct / item[1].images)
    if len(lowest) > 1:
        named = [f"{key} {percent(one.correct / one.images, decimals=0)} %" for key, one in lowest]
        talk.say(f"Lowest held-out accuracy by class: {some_of(named)}.")
    if result.corrected:
        _print_corrected(talk, result.corrected)
    if made.calibration:
        print_calibration(talk.say, made.calibration)
    talk.say(f"Wrote a page with the classes, images that look mislabelled, and rejected images to {result.page}")
    talk.result(
        result.path,
        {
            "schema": schemas.FIT,
            "path": str(result.path),
            "report": str(result.page),
            "sha256": made.sha256,
            "weights_sha256": made.model.weights_sha256,
            "versions": dict(made.written_with),
            "classes": made.names,
            "limited": made.config.data.limit is not None,
            "training": last.model_dump(),
            "held_out": asdict(held),
            "calibration": made.calibration.model_dump() if made.calibration else None,
            "corrections": asdict(result.corrected) if result.corrected else None,
        },
    )
    # The artifact names its model, so the command needs no --model.
    talk.say(f"Score other images with:\n  negprompt score --prompts {shlex.quote(str(result.path))} PATHS")


def _print_corrected(talk: Talk, found: "Corrected") -> None:
    """Print what the corrections changed."""
    before = f" (before: {found.held_out_before.shares()})" if found.held_out_before else ""
    talk.say(f"The same {found.held_out_after.images} held-out images: {found.held_out_after.shares()}{before}.")
    if found.corrected_after:
        before = f" (before: {found.corrected_before.shares()})" if found.corrected_before else ""
        talk.say(
            f"The {found.images} corrected images, which are training images now: {found.corrected_after.shares()}{before}."
        )
