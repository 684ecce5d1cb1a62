"""Stage 1: learn the positive context from few-shot ID images, or take words for it (zero-shot)."""

from pathlib import Path

from negprompt_cli.config import Config
from negprompt_cli.data.results.artifacts import Prompts, save_prompts
from negprompt_cli.engine.prompt_learners.training import train_positive
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.outputs import TrainingResult, describe, write_config, write_history
from negprompt_cli.steps.shared.resuming import Resumable
from negprompt_cli.steps.shared.starts import ORDER_STREAM, start_context, stream, word_anchors
from negprompt_cli.steps.shared.training_data import encode_training_images, find_training_images, schedule_of
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
        resume: go on from the checkpoint beside `out`, where there is one; a finished `out` is left as it is.
        bench: a workbench to share model and features with other steps.

    Raises:
        UsageError: `out` exists, the data are not there or do not fit, a name is too long, or there is nothing to resume
            with this configuration and these data.
        NegPromptError: an image is broken, the model cannot be had, the disk is full.
    """
    resumable = Resumable("positive", config, out, progress=progress)
    if made := resumable.find(resume=resume, overwrite=overwrite):
        return TrainingResult(out, made, ())
    bench = bench or Workbench(config, progress)
    _ = bench.compute
    images = find_training_images(bench)
    start = start_context(bench, config.positive.context, len(images.classes))
    encoder = bench.clip.prompt_encoder(
        [c.name for c in images.classes], context=start.shape[-2], budget=bench.budget, notice=progress.warn
    )
    data = encode_training_images(bench, images)
    settings = config.positive.schedule
    train, held_out = data.split(settings, seed=config.seed)
    schedule = schedule_of(settings, len(train), classes=len(images.classes))
    state = resumable.restore(data, bench.clip.identity.weights_sha256, start)
    left = schedule.epochs - (len(state.history) if state else 0)
    with resumable, progress.task("Training positive prompts", left, "epochs") as task:
        trained = train_positive(
            start,
            encoder,
            train,
            scale=bench.clip.logit_scale,
            schedule=schedule,
            generator=stream(config.seed, ORDER_STREAM),
            anchors=word_anchors(bench, [c.name for c in images.classes]),
            anchor_weight=config.positive.anchor,
            keep=settings.keep,
            held_out=held_out,
            state=state,
            on_state=resumable.keep,
            on_epoch=lambda report: task.advance(1, describe(report)),
        )
    prompts = Prompts(
        kind="positive",
        positive=trained.contexts,
        negative=None,
        classes=data.classes,
        model=bench.clip.identity,
        config=config,
        learned_on=len(data.classes),
        training=(data.summary("positive", trained),),
    )
    prompts = save_prompts(prompts, out)
    write_config(config, out)
    write_history(trained.history, out)
    resumable.remove()
    return TrainingResult(out, prompts, trained.history)
