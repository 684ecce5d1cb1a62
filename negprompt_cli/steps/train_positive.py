"""Stage 1: learn the positive context from few-shot ID images, or take words for it (zero-shot)."""

from dataclasses import dataclass
from pathlib import Path

import torch

from negprompt_cli.config import Config, ContextConfig
from negprompt_cli.data.results.artifacts import Prompts, save_prompts
from negprompt_cli.data.sets.imagesets import ClassLabel
from negprompt_cli.engine.prompt_learners.contexts import positive_context, random_context
from negprompt_cli.engine.prompt_learners.training import EpochReport, train_positive
from negprompt_cli.progress import Progress
from negprompt_cli.steps.shared.outputs import write_config, write_history
from negprompt_cli.steps.shared.resuming import Resumable
from negprompt_cli.steps.shared.training_data import encode_training_images, find_training_images, schedule_of
from negprompt_cli.steps.shared.workbench import Workbench

INIT_STREAM, ORDER_STREAM, NEGATIVE_STREAM = 1, 2, 3
"""Numbers that keep the random streams of one seed apart."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training step made; `history` is empty where `--resume` found the artifact finished."""

    path: Path
    prompts: Prompts
    history: tuple[EpochReport, ...]


def stream(seed: int, number: int) -> torch.Generator:
    """A generator for one purpose: streams of one seed do not overlap, and no global state is touched."""
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


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


def start_context(bench: Workbench, config: ContextConfig, classes: int) -> torch.Tensor:
    """The initial positive context: (1, M, D), or (1, K, M, D) when class-specific."""
    clip = bench.clip
    if config.init == "words":
        start = clip.word_context(config.words)
    else:
        generator = stream(bench.config.seed, INIT_STREAM)
        start = random_context(config.length, clip.plan.width, generator=generator).to(clip.device)
    return positive_context(start, classes=classes if config.class_specific else None)


def word_anchors(bench: Workbench, names: list[str]) -> torch.Tensor | None:
    """Features (K, F) of the configured words in front of K names, or None where nothing is anchored to them."""
    settings = bench.config.positive
    if not settings.anchor:
        return None
    return bench.clip.encode_template(names, template=f"{settings.context.words} {{}}.", budget=bench.budget)


def zero_shot_positive(bench: Workbench, classes: tuple[ClassLabel, ...]) -> Prompts:
    """Positives that were not trained: the configured words in front of the class names."""
    context = bench.config.positive.context
    start = bench.clip.word_context(context.words)
    return Prompts(
        kind="positive",
        positive=positive_context(start, classes=len(classes) if context.class_specific else None),
        negative=None,
        classes=classes,
        model=bench.clip.identity,
        config=bench.config,
        learned_on=0,
    )


def describe(report: EpochReport) -> str:
    """One epoch in a few words: loss terms, ID accuracy, held-out objective."""
    terms = " ".join(f"{name} {value:.4f}" for name, value in report.terms.items())
    held = "" if report.held_out is None else f" held-out {report.held_out:.4f}"
    return f"{terms} ID accuracy {report.accuracy:.1%}{held}"
