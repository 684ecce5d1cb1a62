"""The ID images a stage trains on: few-shot sample, features, held-out share."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from negprompt_cli.config import ScheduleConfig
from negprompt_cli.data.results.artifacts import TrainingSummary
from negprompt_cli.data.results.provenance import device_name, features_digest, versions
from negprompt_cli.data.sets.imagesets import ClassLabel, ImageSet, files_digest, match_classes
from negprompt_cli.data.sets.sampling import few_shot, select_train_classes
from negprompt_cli.engine.prompt_learners.training import EpochReport, Features, Schedule, Trained, split_held_out
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True)
class TrainingData:
    """Features on the training device, and what an artifact records of the images behind them."""

    features: Features
    classes: tuple[ClassLabel, ...]
    files_sha256: str

    def split(self, schedule: ScheduleConfig, *, seed: int) -> tuple[Features, Features | None]:
        """The images to train on and, for keep = best, the held-out ones."""
        if schedule.keep == "last":
            return self.features, None
        generator = torch.Generator().manual_seed(seed)
        train, held = split_held_out(self.features.labels.cpu(), schedule.held_out, generator=generator)
        if not len(held):
            raise UsageError("keep: best holds out ID images, but no class has two images. Use keep: last.")
        device = self.features.labels.device
        return self.features[train.to(device)], self.features[held.to(device)]

    def summary(self, stage: str, trained: Trained) -> TrainingSummary:
        """What the artifact says about a training."""
        kept: EpochReport = trained.history[trained.epoch - 1]
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
        )


def find_training_images(bench: Workbench, known: tuple[ClassLabel, ...] | None = None) -> ImageSet:
    """Resolve the configured ID data, its training classes and shots; opens no image.

    Args:
        bench: the workbench.
        known: classes of the positive artifact, which the images are matched to.

    Raises:
        UsageError: no such data, classes that do not match, a class without images.
    """
    data = bench.config.data
    images = bench.image_set(data.spec, "train")
    if known is not None and data.train_classes == "all":
        images = match_classes(images, known)
    elif data.train_classes != "all":
        chosen = select_train_classes(images.classes, data.train_classes)
        images = _only(images, chosen)
        bench.progress.say(f"training on {len(chosen)} classes ({data.train_classes})")
        if known is not None:
            images = match_classes(images, known)
    if not images.classes:
        raise UsageError(f"{data.spec}: training needs a class for each image, but these have none ({images.layout}).")
    if data.shots:
        sample = few_shot(
            images.labels,
            list(images.paths.relatives()),
            class_keys=[c.key for c in images.classes],
            shots=data.shots,
            seed=bench.config.seed,
        )
        if sample.short and data.limit is None:
            shown = ", ".join(f"{key} ({count})" for key, count in list(sample.short.items())[:5])
            more = f" and {len(sample.short) - 5} more" if len(sample.short) > 5 else ""
            bench.progress.warn(f"classes with fewer images than {data.shots} shots, all used: {shown}{more}")
        images = images.take(sample.indices)
    return images


def encode_training_images(bench: Workbench, images: ImageSet) -> TrainingData:
    """Features of the training images on the training device."""
    encoded = bench.encode(images)
    labels = encoded.labels.to(bench.clip.device)
    missing = [c.name for i, c in enumerate(images.classes) if not (encoded.labels == i).any()]
    if missing:
        bench.progress.warn(f"{len(missing)} classes have no training image left: {', '.join(missing[:5])}")
    return TrainingData(
        Features(encoded.features.to(bench.clip.device), labels),
        images.classes,
        files_digest(encoded.images.paths, encoded.images.root),
    )


def schedule_of(config: ScheduleConfig, images: int, *, classes: int) -> Schedule:
    """The engine's schedule of a configuration for a number of training images and of classes."""
    groups = math.ceil(classes / config.classes_per_step) if config.classes_per_step else 1
    per_epoch = max(groups, math.ceil(images / config.batch_size))
    return Schedule(
        epochs=max(config.epochs, math.ceil(config.min_steps / per_epoch)),
        batch_size=config.batch_size,
        lr=config.lr,
        momentum=config.momentum,
        warmup=config.warmup,
        classes_per_step=config.classes_per_step,
    )


def _only(images: ImageSet, chosen: tuple[int, ...]) -> ImageSet:
    """An image set with only the chosen classes, relabelled in their order."""
    places = np.full(len(images.classes), -1, dtype=np.int64)
    places[list(chosen)] = np.arange(len(chosen))
    kept = images.take(np.flatnonzero((images.labels >= 0) & (places[images.labels] >= 0)))
    return replace(kept, labels=places[kept.labels], classes=tuple(images.classes[i] for i in chosen))
