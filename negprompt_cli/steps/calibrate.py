"""Calibration: a threshold from held-out ID images, stored in the artifact with its score."""

from dataclasses import dataclass, replace
from pathlib import Path

from negprompt_cli.data.results.artifacts import Calibration, Prompts, save_prompts
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.outputs import making
from negprompt_cli.steps.shared.preflight import together
from negprompt_cli.steps.shared.scorer import open_prompts
from negprompt_cli.steps.shared.thresholds import CalibrateOptions, calibrate_prompts
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True)
class Calibrated:
    """The result of a calibration: the artifact with its threshold."""

    path: Path
    prompts: Prompts
    calibration: Calibration


def run_calibrate(
    bench: Workbench, out: Path, *, artifact: ArtifactFile, options: CalibrateOptions, overwrite: bool
) -> Calibrated:
    """Choose a threshold on the evaluation images of the configured ID data and write the artifact with it.

    Args:
        bench: the configuration; its data are held-out ID images of the artifact's classes.
        out: the artifact to write, usually the artifact's own file.
        artifact: any prompt artifact.
        options: the acceptance and the score of the threshold.
        overwrite: whether a calibration, or another file at `out`, may be replaced.

    Raises:
        UsageError: there are too few images; classes do not match; the artifact is missing, is already calibrated or belongs
            to another model; or the score cannot be computed.
    """
    with making(out, overwrite=overwrite or out == artifact.path):
        together(
            lambda: artifact.require(bench.config.data.spec),
            lambda: bench.id_images("eval"),
        )
        prompts = open_prompts(bench, artifact)
        if prompts.calibration is not None and not overwrite:
            raise UsageError(
                f"{artifact.path} is already calibrated (score {prompts.calibration.score}, acceptance "
                f"{prompts.calibration.acceptance:g}).",
                remedy="overwrite",
            )
        made = calibrate_prompts(bench, prompts, options)
        return Calibrated(out, save_prompts(replace(prompts, calibration=made), out), made)
