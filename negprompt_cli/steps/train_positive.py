"""Stage 1 as a command does it: learn the positive context, with files, resuming and progress around it."""

from pathlib import Path

from negprompt_cli.data.files.claims import claimed
from negprompt_cli.steps.shared.learning import learn_positive
from negprompt_cli.steps.shared.outputs import TrainingResult, write_training
from negprompt_cli.steps.shared.resuming import Resumable
from negprompt_cli.steps.shared.training_data import positive_data
from negprompt_cli.steps.shared.workbench import Workbench


def run_train_positive(bench: Workbench, out: Path, *, overwrite: bool, resume: bool = False) -> TrainingResult:
    """Train the positive context and write `out`, its configuration and its epochs.

    Args:
        bench: the configuration, with its model and data.
        out: the artifact to write.
        overwrite: whether `out` may be replaced.
        resume: continue from the checkpoint beside `out`, if there is one; a finished `out` is left as it is.

    Raises:
        UsageError: `out` exists, the data are not there or do not fit, a name is too long, or there is nothing to resume
            with this configuration and these data.
        NegPromptError: an image is broken, the model cannot be had, the disk is full.
    """
    config, progress = bench.config, bench.progress
    with claimed(out):
        resumable = Resumable("positive", config, out, progress=progress)
        if made := resumable.find(resume=resume, overwrite=overwrite):
            return TrainingResult(out, made, ())
        _ = bench.compute
        data = positive_data(bench)
        with resumable:
            learned = learn_positive(bench.clip, data, config, budget=bench.budget, progress=progress, keeper=resumable)
        result = write_training(learned, out, overwrite=overwrite or resume)
        resumable.remove()
        return result
