"""The ID training images of a stage: the few-shot sample of the configured data, and its features."""

from dataclasses import replace

import numpy as np

from negprompt_cli.data.results.artifacts import Prompts, check_model
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.data.sets.imagesets import ImageSet, files_digest, match_classes
from negprompt_cli.data.sets.sampling import select_train_classes
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts
from negprompt_cli.engine.prompt_learners.training import Features
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.corrected import with_corrections
from negprompt_cli.steps.shared.learning import TrainingData
from negprompt_cli.steps.shared.local_scores import patch_features
from negprompt_cli.steps.shared.starts import start_context, zero_shot_positive
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import some_of


def find_training_images(bench: Workbench, known: tuple[ClassLabel, ...] | None = None) -> ImageSet:
    """Find the training images of the configured ID data, training classes, shots and corrections; opens no image.

    Args:
        known: classes of the positive artifact, to which the images' classes are matched; None without one.

    Raises:
        UsageError: there are no such data, classes do not match, or a class has no images.
    """
    data = bench.config.data
    images = bench.id_images("train")
    if known is not None and data.train_classes == "all":
        images = match_classes(images, known)
    elif data.train_classes != "all":
        images = of_training_classes(images, data.train_classes)
        facts = {"asked": data.train_classes, "classes": [c.key for c in images.classes]}
        bench.decide(Decision("sampled", f"Training uses {len(images.classes)} classes ({data.train_classes}).", facts))
        if known is not None:
            images = match_classes(images, known)
    if not images.classes:
        raise UsageError(f"{data.spec}: training needs a class for each image, but these have none ({images.layout}).")
    if data.shots:
        sample = images.few_shot(data.shots, seed=bench.config.seed)
        if sample.short and data.limit is None:
            shown = some_of([f"{key} ({count})" for key, count in sample.short.items()])
            message = f"These classes have fewer than {data.shots} training images, and all are used: {shown}."
            bench.decide(Decision("sampled", message, {"shots": data.shots, "short": dict(sample.short)}, warning=True))
        if len(sample.indices) < len(images):
            bench.progress.say(f"Training uses {len(sample.indices)} of these images, at most {data.shots} per class.")
        images = images.take(sample.indices)
    return with_corrections(bench, images)


def positive_data(bench: Workbench) -> TrainingData:
    """The training data of stage 1.

    Raises:
        UsageError: there are no such data, a class has no images, or a name is too long for the text tower.
    """
    images = find_training_images(bench)
    context = start_context(bench, len(images.classes)).shape[-2]
    return encode_training_images(bench, images, context=context, patches=bench.config.positive.patches > 0)


def negative_data(bench: Workbench, source: ArtifactFile | None) -> tuple[TrainingData, Prompts]:
    """The training data of stage 2, and its positives.

    Args:
        source: a positive artifact, or None for untrained positives.

    Raises:
        UsageError: there are no such data, a name is too long, or the positives belong to another model or other classes.
    """
    images = find_training_images(bench, source.prompts.classes if source else None)
    clip = bench.clip
    if source is None:
        positive = zero_shot_positive(bench, images.classes)
    else:
        positive = source.prompts
        check_model(positive, clip.identity, clip.width, source.path)
    if len(images.classes) != len(positive.classes):
        raise UsageError(
            f"The positives are for {len(positive.classes)} classes, but the data have {len(images.classes)}.",
            remedy="same-data",
        )
    return encode_training_images(bench, images, context=positive.positive.shape[-2]), positive


def encode_training_images(bench: Workbench, images: ImageSet, *, context: int, patches: bool = False) -> TrainingData:
    """Features of the training images on the training device.

    Args:
        images: images with classes.
        context: number of context vectors before the class names.
        patches: whether to compute patch features too.

    Raises:
        UsageError: a name is too long for that context (checked before any image is read), or the model has no patch
            features.
    """
    clip = bench.clip
    tokenize_prompts([c.name for c in images.classes], clip.tokenizer, clip.plan, context=context)
    encoded = bench.encode(images)
    labels = encoded.labels.to(clip.device)
    missing = [c.name for i, c in enumerate(images.classes) if not (encoded.labels == i).any()]
    if missing:
        message = f"{len(missing)} classes have no training images left: {some_of(missing)}."
        facts = {"spec": bench.config.data.spec, "role": "train", "classes": missing, "reason": "no images"}
        bench.decide(Decision("classes-left-out", message, facts, warning=True))
    return TrainingData(
        Features(
            encoded.features.to(clip.device),
            labels,
            patch_features(bench, encoded.images).to(clip.device) if patches else None,
        ),
        images.classes,
        files_digest(images.paths, images.root),
    )


def of_training_classes(images: ImageSet, text: str) -> ImageSet:
    """An image set with only the training classes that `text` selects (`select_train_classes`), with new labels.

    Raises:
        UsageError: the text is not a selection, or selects no class.
    """
    chosen = select_train_classes(images.classes, text)
    places = np.full(len(images.classes), -1, dtype=np.int64)
    places[list(chosen)] = np.arange(len(chosen))
    kept = images.take(np.flatnonzero((images.labels >= 0) & (places[images.labels] >= 0)))
    return replace(kept, labels=places[kept.labels], classes=tuple(images.classes[i] for i in chosen))
