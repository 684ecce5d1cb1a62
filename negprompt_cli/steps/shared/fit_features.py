"""Both training stages on image features in memory: what `fit` does to files, for callers that have features already."""

from collections.abc import Sequence

import torch
from torch import Tensor

from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.sets.imagesets import ClassLabel
from negprompt_cli.engine.losses import NegativeLoss
from negprompt_cli.engine.prompt_learners.contexts import negative_contexts
from negprompt_cli.engine.prompt_learners.training import Features, train_negative, train_positive
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.starts import NEGATIVE_STREAM, ORDER_STREAM, start_context, stream, word_anchors
from negprompt_cli.steps.shared.training_data import TrainingData, schedule_of
from negprompt_cli.steps.shared.workbench import Workbench


def fit_features(bench: Workbench, features: Tensor, labels: Tensor, classes: Sequence[ClassLabel]) -> Prompts:
    """Learn positive and negative contexts from ID features.

    Args:
        bench: model and configuration; its data section is not looked at.
        features: (N, F) L2-normalised image features of the bench's model.
        labels: (N,) int64, in [0, K).
        classes: the K classes.

    Returns:
        A negative artifact, not yet on disk.

    Raises:
        UsageError: labels and classes do not fit, or the configuration asks for the impossible.
    """
    classes = tuple(classes)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise UsageError(
            f"Features must be (N, F) and labels (N,), not {tuple(features.shape)} and {tuple(labels.shape)}."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise UsageError(f"Labels must be from 0 to {len(classes) - 1}, one for each class name.")
    clip, config = bench.clip, bench.config
    data = TrainingData(Features(features.float().to(clip.device), labels.long().to(clip.device)), classes, "")
    start = start_context(bench, config.positive.context, len(classes))
    encoder = clip.prompt_encoder([c.name for c in classes], context=start.shape[-2], budget=bench.budget)
    train, held_out = data.split(config.positive.schedule, seed=config.seed)
    first = train_positive(
        start,
        encoder,
        train,
        scale=clip.logit_scale,
        schedule=schedule_of(config.positive.schedule, len(train), classes=len(classes)),
        generator=stream(config.seed, ORDER_STREAM),
        anchors=word_anchors(bench, [c.name for c in classes]),
        anchor_weight=config.positive.anchor,
        keep=config.positive.schedule.keep,
        held_out=held_out,
    )
    with torch.no_grad():
        positives = encoder(first.contexts)[0]
    settings = config.negative
    train, held_out = data.split(settings.schedule, seed=config.seed)
    second = train_negative(
        negative_contexts(
            first.contexts, settings.count, noise=settings.noise, generator=stream(config.seed, NEGATIVE_STREAM)
        ),
        encoder,
        train,
        positives=positives,
        loss=NegativeLoss(settings.loss.name, settings.loss.beta, settings.loss.gamma),
        scale=clip.logit_scale,
        schedule=schedule_of(settings.schedule, len(train), classes=len(classes)),
        generator=stream(config.seed, ORDER_STREAM),
        keep=settings.schedule.keep,
        held_out=held_out,
    )
    return Prompts(
        kind="negative",
        positive=first.contexts.detach().cpu(),
        negative=second.contexts.detach().cpu(),
        classes=classes,
        model=clip.identity,
        config=config,
        learned_on=len(classes),
        training=(data.summary("positive", first), data.summary("negative", second)),
        image_mean=data.features.images.mean(0) if settings.floors else None,
    )
