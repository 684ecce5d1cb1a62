"""Fit: positive prompts, negative prompts and a threshold from a folder of images sorted by class.

It runs the usual steps with one model and one feature cache. The images are split as usual: by train/ and val/ if the folder
has them, else each class in half. So the threshold is chosen on images that no training has seen.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from negprompt_cli.data.files.claims import claimed
from negprompt_cli.data.results.artifacts import Prompts, save_prompts
from negprompt_cli.data.results.runs import NEGATIVE, PAGE, POSITIVE
from negprompt_cli.data.sets.imagesets import NothingHeldOut
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.correction_effect import (
    Corrected,
    compare_corrected,
    corrected_images,
    earlier_detector,
)
from negprompt_cli.steps.shared.fit_page import write_fit_page
from negprompt_cli.steps.shared.learning import learn_negative, learn_positive
from negprompt_cli.steps.shared.outputs import refuse_existing
from negprompt_cli.steps.shared.thresholds import (
    CalibrateOptions,
    HeldOut,
    calibrate_prompts,
    enough_for_threshold,
    held_out_accuracy,
    held_out_images,
)
from negprompt_cli.steps.shared.training_data import find_training_images, positive_data
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.steps.train_negative import run_train_negative
from negprompt_cli.steps.train_positive import run_train_positive


@dataclass(frozen=True)
class Fitted:
    """The result of a fit: the artifact, with a threshold unless there were too few held-out images.

    `held_out`: how well it classifies those. `page`: a page about them. `corrected`: what corrections changed, if there are
    any.
    """

    path: Path
    prompts: Prompts
    held_out: HeldOut
    page: Path
    corrected: Corrected | None = None


def run_fit(
    bench: Workbench, folder: Path, *, options: CalibrateOptions, overwrite: bool, resume: bool = False
) -> Fitted:
    """Train both stages on the ID data of the configuration and calibrate on its held-out images, into `folder`.

    With too few held-out images, the artifact has no threshold, and a message says how many images are needed. `resume`
    keeps what an interrupted fit finished and does the rest.

    Raises:
        UsageError: outputs exist, or with `resume` have another configuration; or the data are missing or have no classes.
    """
    positive, negative = folder / POSITIVE, folder / NEGATIVE
    for path in (positive, negative):
        refuse_existing(path, overwrite=overwrite or resume)
    calibrated = enough_held_out(bench, options)
    corrections = bench.config.data.corrections is not None
    # Read before the training, which may replace it.
    earlier = earlier_detector(bench, negative) if corrections else None
    more = {"overwrite": overwrite, "resume": resume}
    run_train_positive(bench, positive, **more)
    prompts = run_train_negative(bench, negative, positive=ArtifactFile(positive), **more).prompts
    if calibrated:
        made = calibrate_prompts(bench, prompts, options)
        with claimed(negative):
            prompts = save_prompts(replace(prompts, calibration=made), negative)
    corrected = None
    if corrections:
        images = corrected_images(bench, find_training_images(bench))
        corrected = compare_corrected(bench, earlier, prompts, images)
    held_out, page = held_out_accuracy(bench, prompts), folder / PAGE
    write_fit_page(bench, prompts, page)
    return Fitted(negative, prompts, held_out, page, corrected)


def fit_prompts(bench: Workbench, options: CalibrateOptions) -> Prompts:
    """Do the work of `run_fit` in memory; only image features are written, to their cache.

    Raises:
        UsageError, NegPromptError: as `run_fit`, except for its outputs.
    """
    calibrated = enough_held_out(bench, options)
    data = positive_data(bench)
    prompts = learn_negative(bench, data, learn_positive(bench, data).prompts).prompts
    if calibrated:
        prompts = replace(prompts, calibration=calibrate_prompts(bench, prompts, options), sha256="")
    return prompts


def enough_held_out(bench: Workbench, options: CalibrateOptions) -> bool:
    """Whether the configured data have enough held-out images for a threshold; warns if not.

    Raises:
        UsageError: there are no held-out images.
    """
    try:
        held_out = len(held_out_images(bench))
    except NothingHeldOut as error:
        raise UsageError(f"{error} No images are left to choose a threshold on.", remedy="train-only") from error
    return enough_for_threshold(bench, held_out, options)
