"""Calibration: a threshold from held-out ID images, stored in the artifact with the score it belongs to."""

from dataclasses import dataclass, replace
from pathlib import Path

from negprompt_cli.data.results.artifacts import Calibration, Prompts, save_prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.outputs import making
from negprompt_cli.steps.shared.preflight import require_prompts, together
from negprompt_cli.steps.shared.scorer import open_prompts
from negprompt_cli.steps.shared.thresholds import CalibrateOptions, calibrate_prompts
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True)
class Calibrated:
    """What a calibration made: the artifact with its threshold."""

    path: Path
    prompts: Prompts
    calibration: Calibration


def run_calibrate(
    bench: Workbench, out: Path, *, prompts_path: Path, options: CalibrateOptions, overwrite: bool
) -> Calibrated:
    """Choose a threshold on the evaluation images of the configured ID data and write the artifact with it.

    Args:
        bench: the configuration; its data are held-out ID images of the artifact's classes.
        out: the artifact to write, usually `prompts_path` itself.
        prompts_path: any prompt artifact.
        options: what to aim for.
        overwrite: whether a calibration, or another file at `out`, may be replaced.

    Raises:
        UsageError: too few images, classes that do not match, the artifact is calibrated already, is missing or does
            not fit, or the score cannot be computed.
        NegPromptError: an image is broken, the model cannot be had, the disk is full.
    """
    with making(out, overwrite=overwrite or out == prompts_path):
        return _calibrate(bench, out, prompts_path, options, overwrite=overwrite)


def _calibrate(
    bench: Workbench, out: Path, prompts_path: Path, options: CalibrateOptions, *, overwrite: bool
) -> Calibrated:
    spec = bench.config.data.spec
    together(
        lambda: require_prompts(prompts_path, spec),
        lambda: bench.image_set(spec, "eval"),
    )
    prompts = open_prompts(bench, prompts_path)
    if prompts.calibration is not None and not overwrite:
        raise UsageError(
            f"{prompts_path} is calibrated already (score {prompts.calibration.score}, acceptance "
            f"{prompts.calibration.acceptance:g}).",
            remedy="overwrite",
        )
    made = calibrate_prompts(bench, prompts, options)
    return Calibrated(out, save_prompts(replace(prompts, calibration=made), out), made)
