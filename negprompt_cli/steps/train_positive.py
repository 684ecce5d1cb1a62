"""Stage 1 as a command does it: learn the positive context, with files, resuming and progress around it."""

from pathlib import Path

from negprompt_cli.config import Config
from negprompt_cli.data.files.claims import claimed
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.learning import learn_positive
from negprompt_cli.steps.shared.outputs import TrainingResult, write_training
from negprompt_cli.steps.shared.resuming import Resumable
from negprompt_cli.steps.shared.training_data import positive_data
from negprompt_cli.steps.shared.workbench import Workbench


def run_train_positive(
    config: Config,
    out: Path,
    *,
    overwrite: bool,
    progress: Progress,
    resume: bool = False,
    bench: Workbench | None = None,
) -> TrainingResult:
    """Train the positive context and write `out`, its configuration and its epochs.

    Args:
        config: the resolved configuration.
        out: the artifact to write.
        overwrite: whether `out` may be replaced.
        progress: told how it goes.
        resume: continue from the checkpoint beside `out`, if there is one; a finished `out` is left as it is.
        bench: a workbench to share model and features with other steps.

    Raises:
        UsageError: `out` exists, the data are not there or do not fit, a name is too long, or there is nothing to resume
            with this configuration and these data.
        NegPromptError: an image is broken, the model cannot be had, the disk is full.
    """
    with claimed(out):
        resumable = Resumable("positive", config, out, progress=progress)
        if made := resumable.find(resume=resume, overwrite=overwrite):
            return TrainingResult(out, made, ())
        bench = bench or Workbench(config, progress)
        _ = bench.compute
        data = positive_data(bench)
        with resumable:
            learned = learn_positive(bench.clip, data, config, budget=bench.budget, progress=progress, keeper=resumable)
        result = write_training(learned, out, overwrite=overwrite or resume)
        resumable.remove()
        return result
