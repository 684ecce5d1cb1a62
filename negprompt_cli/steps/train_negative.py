"""Stage 2 of a command: learns negative contexts from ID images only, with files, checkpoints and progress."""

from pathlib import Path

from negprompt_cli.data.files.claims import claimed
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.learning import learn_negative
from negprompt_cli.steps.shared.outputs import TrainingResult, write_training
from negprompt_cli.steps.shared.preflight import together
from negprompt_cli.steps.shared.resuming import Resumable
from negprompt_cli.steps.shared.training_data import negative_data
from negprompt_cli.steps.shared.workbench import Workbench


def run_train_negative(
    bench: Workbench, out: Path, *, positive: ArtifactFile | None, overwrite: bool, resume: bool = False
) -> TrainingResult:
    """Train negative contexts, and write `out`, its configuration and its epochs.

    Args:
        positive: a positive artifact, or None for untrained positives.
        resume: resume from the checkpoint next to `out`, if there is one; a finished `out` is not changed.

    Raises:
        UsageError: `out` exists; the positives are missing, or belong to another model or other classes; the data are
            missing; or the checkpoint to resume has another configuration, other positives or other data.
    """
    config, progress = bench.config, bench.progress
    if resume and positive:
        positive.require(config.data.spec, positive=True)
    known = None if positive is None or positive.missing else positive.prompts
    with claimed(out):
        resumable = Resumable("negative", config, out, positives=known, progress=progress)
        if made := resumable.find(resume=resume, overwrite=overwrite):
            return TrainingResult(out, made, ())
        _ = bench.compute
        together(
            lambda: positive.require(config.data.spec, positive=True) if positive else None,
            lambda: bench.id_images("train"),
        )
        data, positives = negative_data(bench, positive)
        with resumable:
            learned = learn_negative(bench, data, positives, keeper=resumable)
        result = write_training(learned, out, overwrite=overwrite or resume)
        resumable.remove()
        return result
