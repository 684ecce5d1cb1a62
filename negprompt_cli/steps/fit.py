"""Fit: positive prompts, negative prompts and a threshold from a folder of images by class, in one go.

The same steps as one by one, with one model and one feature cache. The images are split as everywhere: train/ and val/
where they are, else half and half per class, so the threshold is chosen on images that no prompt has seen.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negprompt_cli.config import Config
from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.results.runs import NEGATIVE, POSITIVE
from negprompt_cli.engine.metrics.calibration import images_needed
from negprompt_cli.progress import Progress
from negprompt_cli.steps.calibrate import CalibrateOptions, run_calibrate
from negprompt_cli.steps.shared.outputs import refuse_existing
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.steps.train_negative import run_train_negative
from negprompt_cli.steps.train_positive import run_train_positive


@dataclass(frozen=True)
class Fitted:
    """What a fit made: the artifact, with a threshold unless there were too few held-out images."""

    path: Path
    prompts: Prompts


def run_fit(
    config: Config,
    folder: Path,
    *,
    options: CalibrateOptions,
    overwrite: bool,
    progress: Progress,
    resume: bool = False,
    bench: Workbench | None = None,
) -> Fitted:
    """Train both stages on the ID data of the configuration and calibrate on its held-out images, into `folder`.

    With too few held-out images for a threshold the artifact is made without one, and the number that would do is said.
    With `resume` what an interrupted fit finished is kept, and it goes on from there.

    Raises:
        UsageError: outputs exist, or with `resume` are of another configuration; the data are not there or are not classes.
        NegPromptError: an image is broken, the model cannot be had, the disk is full.
    """
    positive, negative = folder / POSITIVE, folder / NEGATIVE
    for path in (positive, negative):
        refuse_existing(path, overwrite=overwrite or resume)
    needed = images_needed(options.acceptance)
    bench = bench or Workbench(config, progress)
    held_out = len(bench.image_set(config.data.spec, "eval"))
    more: dict[str, Any] = {"overwrite": overwrite, "progress": progress, "resume": resume, "bench": bench}
    run_train_positive(config, positive, **more)
    trained = run_train_negative(config, negative, positive=positive, **more)
    if held_out < needed:
        progress.warn(
            f"No threshold: {held_out} held-out ID images are too few for an acceptance of {100 * options.acceptance:g} %, "
            f"{needed} would do. Scores and classes can be had all the same; with more images run `negprompt calibrate`."
        )
        return Fitted(negative, trained.prompts)
    calibrated = run_calibrate(bench, negative, prompts_path=negative, options=options, overwrite=overwrite or resume)
    return Fitted(negative, calibrated.prompts)
