"""The training core: from ID image features to prompts, with one function for each stage.

    learn_positive(bench, data)             stage 1
    learn_negative(bench, data, positive)   stage 2, against frozen positives

It reads and writes no files and knows no commands. Commands add files and resuming. The Python interface and a
verification that trains again call it directly, so all of them learn the same prompts from the same features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from negprompt_cli.config import Config, ScheduleConfig
from negprompt_cli.data.results.artifacts import Prompts, TrainingSummary, sealed
from negprompt_cli.data.results.provenance import device_name, features_digest, versions
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.prompt_learners.contexts import negative_contexts
from negprompt_cli.engine.prompt_learners.neutral_names import neutral_names
from negprompt_cli.engine.prompt_learners.prompt_encoder import Encoder
from negprompt_cli.engine.prompt_learners.training import (
    EpochReport,
    Features,
    FullBatch,
    Job,
    Objective,
    State,
    Trained,
    negative_objective,
    positive_objective,
    split_held_out,
    train,
)
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.embedding_learning import score_statistics
from negprompt_cli.steps.shared.schedules import epochs_of, method_of, report_outcome
from negprompt_cli.steps.shared.self_check import self_check
from negprompt_cli.steps.shared.starts import (
    NEGATIVE_STREAM,
    ORDER_STREAM,
    start_context,
    stream,
    stream_seed,
    word_anchors,
)
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import percent

NEUTRAL_NAMES = 32
"""Number of other names in stage 2, besides the classes' names. 30 are as good as 54 (engine/README.md)."""


@dataclass(frozen=True)
class TrainingData:
    """ID training images, and the facts about them that an artifact records.

    `features`: (N, F) L2-normalised features and their labels (N,) in [0, K), on the training device. `classes`: the K
    classes. `files_sha256`: digest of the list of image files; empty for features without files.
    """

    features: Features
    classes: tuple[ClassLabel, ...]
    files_sha256: str

    @classmethod
    def of(
        cls, features: Tensor, labels: Tensor, classes: Sequence[ClassLabel], device: torch.device
    ) -> "TrainingData":
        """Make training data of features (N, F) and labels (N,) without files.

        Raises:
            UsageError: the shapes differ, or a label is no class.
        """
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise UsageError(
                f"Features must be (N, F) and labels (N,), not {tuple(features.shape)} and {tuple(labels.shape)}."
            )
        if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
            raise UsageError(f"Labels must be from 0 to {len(classes) - 1}, one for each class name.")
        return cls(Features(features.float().to(device), labels.long().to(device)), tuple(classes), "")

    @property
    def names(self) -> list[str]:
        """Class names in the order of the labels."""
        return [c.name for c in self.classes]

    def split(self, schedule: ScheduleConfig, *, seed: int) -> tuple[Features, Features | None]:
        """The images to train on and, for keep = best, the held-out images.

        Raises:
            UsageError: no class has an image that can be held out.
        """
        if schedule.keep == "last":
            return self.features, None
        generator = torch.Generator().manual_seed(seed)
        train, held = split_held_out(self.features.labels.cpu(), schedule.held_out, generator=generator)
        if not len(held):
            raise UsageError("keep: best needs held-out ID images, but no class has two images. Use keep: last.")
        device = self.features.labels.device
        return self.features[train.to(device)], self.features[held.to(device)]

    def summary(self, stage: str, trained: Trained) -> TrainingSummary:
        """The artifact's record of a training."""
        kept = trained.history[trained.epoch - 1]
        return TrainingSummary(
            stage=stage,
            images=len(self.features),
            files_sha256=self.files_sha256,
            epoch=trained.epoch,
            terms=kept.terms,
            accuracy=kept.accuracy,
            features_sha256=features_digest(self.features.images, self.features.labels),
            device=device_name(self.features.images.device),
            versions=versions(),
            start_loss=trained.start_loss,
            end_loss=trained.end_loss,
            outcome=trained.outcome,
        )


@dataclass(frozen=True)
class Learned:
    """The result of a stage: prompts on the CPU, not yet on disk, with the digest of their file; and a report per epoch."""

    prompts: Prompts
    history: tuple[EpochReport, ...]


class Keeper(Protocol):
    """Keeps the states of a training, so that it can be resumed."""

    def restore(self, data: TrainingData, weights_sha256: str, start: Tensor) -> State | None:
        """The state to resume from, or None to start from the contexts `start`."""

    def keep(self, state: State) -> None:
        """Keep the state after an epoch."""


def learn_positive(bench: Workbench, data: TrainingData, *, keeper: Keeper | None = None) -> Learned:
    """Stage 1: learn the positive context.

    Args:
        bench: the model of the features in `data`, and the configuration, all of which is recorded.
        data: ID training images.
        keeper: keeps the states, and has the state to resume from; None for no checkpoints.

    Raises:
        UsageError: a name is too long for the text tower, or the data do not suffice for the configuration.
    """
    clip, settings, progress = bench.clip, bench.config.positive, bench.progress
    if len(data.classes) == 1:
        message = (
            "There is only one class, so stage 1 cannot learn to separate classes, and ID accuracy is always 100 %."
        )
        progress.decide(Decision("few-classes", message, {"classes": 1}))
    start = start_context(bench, len(data.classes))
    encoder = clip.prompt_encoder(data.names, context=start.shape[-2], budget=bench.budget, notice=progress.warn)
    if settings.patches and data.features.patches is None:
        raise UsageError(
            "The loss of stage 1 uses patches (positive.patches), which need images and cannot be computed from features."
        )
    objective = positive_objective(
        scale=clip.logit_scale,
        anchors=word_anchors(bench, data.names),
        anchor_weight=settings.anchor,
        forced=settings.forced,
        patch_weight=settings.patches,
    )
    trained = _train("positive", bench, data, keeper, start=start, encoder=encoder, objective=objective)
    prompts = Prompts(
        kind="positive",
        positive=trained.contexts.detach().cpu(),
        negative=None,
        classes=data.classes,
        model=clip.identity,
        config=bench.config,
        learned_on=len(data.classes),
        training=(data.summary("positive", trained),),
    )
    return Learned(sealed(prompts), trained.history)


def learn_negative(bench: Workbench, data: TrainingData, positive: Prompts, *, keeper: Keeper | None = None) -> Learned:
    """Stage 2: learn negative contexts with a frozen positive context.

    Args:
        positive: learned or zero-shot positives of the same model, for the classes of the data.

    The other arguments are those of `learn_positive`.

    Raises:
        UsageError: as `learn_positive`.
    """
    clip, config, progress = bench.clip, bench.config, bench.progress
    settings = config.negative
    frozen = positive.positive.to(clip.device)
    classes = len(positive.names)
    others = () if positive.class_specific else _others(config)
    encoder = clip.prompt_encoder(
        [*positive.names, *others], context=frozen.shape[-2], budget=bench.budget, notice=progress.warn
    )
    with torch.no_grad():
        every = encoder(frozen)[0]
    positives = every[:classes]
    start = negative_contexts(
        frozen, settings.count, noise=settings.noise, generator=stream(config.seed, NEGATIVE_STREAM)
    )
    loss = NegativeLoss(**settings.loss.model_dump())
    objective = negative_objective(loss, positives=every, scale=clip.logit_scale, others=len(others))
    trained = _train(
        "negative", bench, data, keeper, start=start, encoder=encoder, objective=objective, judges=positives
    )
    with torch.no_grad():
        negatives = encoder(trained.contexts.to(clip.device)).transpose(0, 1)[:classes]
    statistics = score_statistics(config, data.features, positives, negatives, scale=clip.logit_scale)
    checked, decision = self_check(config, data.features, positives, statistics, scale=clip.logit_scale)
    progress.decide(decision)
    summary = data.summary("negative", trained).model_copy(
        update={"self_check": checked.document() if checked else None}
    )
    prompts = Prompts(
        kind="negative",
        positive=positive.positive.detach().cpu(),
        negative=trained.contexts.detach().cpu(),
        classes=positive.classes,
        model=clip.identity,
        config=config,
        learned_on=len(data.classes),
        # Zero-shot positives are not an artifact.
        parents=(positive.parent(),) if positive.sha256 else (),
        training=(*positive.training, summary),
        id_statistics=statistics,
    )
    return Learned(sealed(prompts), trained.history)


def _others(config: Config) -> tuple[str, ...]:
    """Names without images that stage 2 binds negatives to, in addition to the classes, so that negatives fit new names.

    Trainings with random groups of classes do not use them, because they have many classes.
    """
    settings = config.negative
    return neutral_names(NEUTRAL_NAMES) if settings.loss.contrast and not settings.schedule.classes_per_step else ()


def carry_over(bench: Workbench, source: Prompts, classes: tuple[ClassLabel, ...]) -> Prompts:
    """The contexts of an artifact for other class names, with the ID statistics adapted to these names.

    Args:
        source: prompts with negatives and shared contexts.
        classes: the other classes.

    Raises:
        UsageError: a name is too long for the text tower.
    """
    statistics = source.id_statistics
    if statistics is not None and source.negative is not None:
        contexts = torch.cat([source.positive, source.negative]).to(bench.clip.device)

        def encoded(names: list[str]) -> tuple[Tensor, Tensor]:
            encoder = bench.clip.prompt_encoder(names, context=contexts.shape[-2], budget=bench.budget)
            with torch.no_grad():
                features = encoder(contexts).cpu()
            return features[0], features[1:].transpose(0, 1)

        statistics = statistics.follow(encoded(source.names), encoded([c.name for c in classes]))
    return source.transferred(classes, statistics)


def describe(report: EpochReport) -> str:
    """One epoch in a few words: loss terms, ID accuracy, held-out objective."""
    terms = ", ".join(f"{name} {value:.4f}" for name, value in report.terms.items())
    held = "" if report.held_out is None else f", held-out {report.held_out:.4f}"
    return f"{terms}, ID accuracy {percent(report.accuracy)} %{held}"


def _train(
    stage: Literal["positive", "negative"],
    bench: Workbench,
    data: TrainingData,
    keeper: Keeper | None,
    *,
    start: Tensor,
    encoder: Encoder,
    objective: Objective,
    judges: Tensor | None = None,
) -> Trained:
    """Train with the stage's schedule, from the start or from the keeper's state, and report the outcome; see `Job`."""
    config, schedule = bench.config, getattr(bench.config, stage).schedule
    images, held_out = data.split(schedule, seed=config.seed)
    job = Job(
        start=start,
        encoder=encoder,
        data=images,
        objective=objective,
        method=method_of(schedule),
        epochs=epochs_of(schedule, images=len(images), classes=len(data.classes)),
        judges=judges,
        keep=schedule.keep,
        held_out=held_out,
        seed=stream_seed(config.seed, ORDER_STREAM),
    )
    state = keeper.restore(data, bench.clip.identity.weights_sha256, start) if keeper else None
    left = job.epochs - (len(state.history) if state else 0)
    stops_early = isinstance(job.method, FullBatch) and job.method.tolerance > 0
    with bench.progress.task(f"Training {stage} prompts", left, "epochs", at_most=stops_early) as task:
        trained = train(
            job,
            state=state,
            on_state=keeper.keep if keeper else None,
            on_epoch=lambda report: task.advance(1, describe(report)),
        )
    report_outcome(bench.progress, stage, job, trained)
    return trained
