"""Stage 1 of a command: learns the positive context, with files, checkpoints and progress."""

from pathlib import Path

from negprompt_cli.data.files.claims import claimed
from negprompt_cli.steps.shared.learning import learn_positive
from negprompt_cli.steps.shared.outputs import TrainingResult, write_training
from negprompt_cli.steps.shared.resuming import Resumable
from negprompt_cli.steps.shared.training_data import positive_data
from negprompt_cli.steps.shared.workbench import Workbench


def run_train_positive(bench: Workbench, out: Path, *, overwrite: bool, resume: bool = False) -> TrainingResult:
    """Train the positive context, and write `out`, its configuration and its epochs.

    Args:
        resume: resume from the checkpoint next to `out`, if there is one; a finished `out` is not changed.

    Raises:
        UsageError: `out` exists, the data are missing or have no classes, a name is too long, or the checkpoint to resume
            has another configuration or other data.
    """
    with claimed(out):
        resumable = Resumable("positive", bench.config, out, progress=bench.progress)
        if made := resumable.find(resume=resume, overwrite=overwrite):
            return TrainingResult(out, made, ())
        _ = bench.compute
        data = positive_data(bench)
        with resumable:
            learned = learn_positive(bench, data, keeper=resumable)
        result = write_training(learned, out, overwrite=overwrite or resume)
        resumable.remove()
        return result
