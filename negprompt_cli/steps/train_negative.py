"""Stage 2: learn negative contexts against frozen positives, with ID images only."""

from pathlib import Path

import torch

from negprompt_cli.config import Config
from negprompt_cli.data.results.artifacts import Prompts, check_model, load_prompts, save_prompts
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.prompt_learners.contexts import negative_contexts
from negprompt_cli.engine.prompt_learners.training import train_negative
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.outputs import TrainingResult, describe, write_config, write_history
from negprompt_cli.steps.shared.preflight import ZERO_SHOT, require_positive, together
from negprompt_cli.steps.shared.resuming import Resumable
from negprompt_cli.steps.shared.starts import NEGATIVE_STREAM, ORDER_STREAM, stream, zero_shot_positive
from negprompt_cli.steps.shared.training_data import encode_training_images, find_training_images, schedule_of
from negprompt_cli.steps.shared.workbench import Workbench


def run_train_negative(
    config: Config,
    out: Path,
    *,
    positive: str | Path,
    overwrite: bool,
    progress: Progress,
    resume: bool = False,
    bench: Workbench | None = None,
) -> TrainingResult:
    """Train negative contexts and write `out`, its configuration and its epochs.

    Args:
        config: the resolved configuration.
        out: the artifact to write.
        positive: a positive artifact, or 'zero-shot' for untrained positives.
        overwrite: whether `out` may be replaced.
        progress: told how it goes.
        resume: go on from the checkpoint beside `out`, where there is one; a finished `out` is left as it is.
        bench: a workbench to share model and features with other steps.

    Raises:
        UsageError: `out` exists, the positives are missing or do not fit model or data, the data are not there, or there
            is nothing to resume with this configuration, these positives and these data.
        NegPromptError: an image is broken, the model cannot be had, the disk is full.
    """
    if resume:
        require_positive(positive, config.data.spec)
    known = load_prompts(Path(positive)) if str(positive) != ZERO_SHOT and Path(positive).is_file() else None
    resumable = Resumable("negative", config, out, positives=known, progress=progress)
    if made := resumable.find(resume=resume, overwrite=overwrite):
        return TrainingResult(out, made, ())
    bench = bench or Workbench(config, progress)
    _ = bench.compute
    together(
        lambda: require_positive(positive, config.data.spec),
        lambda: bench.image_set(config.data.spec, "train"),
    )
    images = find_training_images(bench, known.classes if known else None)
    clip = bench.clip
    if known is None:
        prompts = zero_shot_positive(bench, images.classes)
    else:
        check_model(known, clip.identity, clip.plan.width, Path(positive))
        prompts = known
    if len(images.classes) != len(prompts.classes):
        raise UsageError(
            f"The positives are for {len(prompts.classes)} classes, the data have {len(images.classes)}. "
            "Train both stages on the same --data and --train-classes."
        )
    positive_contexts = prompts.positive.to(clip.device)
    encoder = clip.prompt_encoder(
        prompts.names, context=positive_contexts.shape[-2], budget=bench.budget, notice=progress.warn
    )
    data = encode_training_images(bench, images)
    with torch.no_grad():
        positives = encoder(positive_contexts)[0]
    settings = config.negative
    train, held_out = data.split(settings.schedule, seed=config.seed)
    schedule = schedule_of(settings.schedule, len(train), classes=len(prompts.classes))
    start = negative_contexts(
        positive_contexts, settings.count, noise=settings.noise, generator=stream(config.seed, NEGATIVE_STREAM)
    )
    state = resumable.restore(data, clip.identity.weights_sha256, start)
    left = schedule.epochs - (len(state.history) if state else 0)
    with resumable, progress.task("Training negative prompts", left, "epochs") as task:
        trained = train_negative(
            start,
            encoder,
            train,
            positives=positives,
            loss=NegativeLoss(settings.loss.name, settings.loss.beta, settings.loss.gamma),
            scale=clip.logit_scale,
            schedule=schedule,
            generator=stream(config.seed, ORDER_STREAM),
            keep=settings.schedule.keep,
            held_out=held_out,
            state=state,
            on_state=resumable.keep,
            on_epoch=lambda report: task.advance(1, describe(report)),
        )
    made = Prompts(
        kind="negative",
        positive=positive_contexts,
        negative=trained.contexts,
        classes=prompts.classes,
        model=clip.identity,
        config=config,
        learned_on=len(images.classes),
        parents=(prompts.parent(),) if known else (),
        training=(*prompts.training, data.summary("negative", trained)),
        image_mean=data.features.images.mean(0) if settings.floors else None,
    )
    made = save_prompts(made, out)
    write_config(config, out)
    write_history(trained.history, out)
    resumable.remove()
    return TrainingResult(out, made, trained.history)
