"""Compute the features of an image set: read known features from the cache, encode the other images, and store them.

Each image is preprocessed by the model's own transform and encoded once. Broken images stop the job, or are skipped and
counted, depending on the options. There is no augmentation, because the frozen encoder processes each image only once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from negprompt_cli.choices import Decoder
from negprompt_cli.data.encoding.batches import IMAGES_PER_BATCH, Reading
from negprompt_cli.data.encoding.decoders import pixel_reader
from negprompt_cli.data.encoding.feature_cache import FeatureStore, Pending, StoreKey, image_keys
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.encoding.sharding import FEATURES, run_everywhere
from negprompt_cli.data.sets.imagesets import ImageSet
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Progress, Task


@dataclass(frozen=True)
class EncodedSet:
    """The features of an image set.

    `features`: (N, F) float32 on the CPU, L2-normalised. `labels`: (N,) int64, -1 for unlabelled images. `images`: the set
    without skipped files. `skipped`: the broken files that were left out. `reasons`: a sentence about each of them.
    """

    images: ImageSet
    features: Tensor
    labels: Tensor
    skipped: tuple[str, ...]
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode images; only the decoder changes features by more than rounding.

    `batch_size` 0 and `workers` -1 mean a choice by hardware. Without `cache`, features are not written to disk.
    """

    batch_size: int = 0
    workers: int = -1
    on_error: Literal["stop", "skip"] = "stop"
    cache: bool = True
    decoder: Decoder = "pil"


def encode_images(clip: Clip, images: ImageSet, options: EncodeOptions, progress: Progress) -> EncodedSet:
    """Encode an image set, using cached features.

    Raises:
        BrokenImage: a file cannot be read as an image and `options.on_error` is 'stop'.
        UsageError: there are no images, or all of them are broken.
        NegPromptError: a file was removed in the meantime, or the cache cannot be written.
    """
    try:
        keys = image_keys(images.paths)
    except OSError as error:
        raise NegPromptError(
            f"{error.filename} was removed after the folder was listed. Run the command again."
        ) from error
    if not keys:
        raise UsageError(f"{images.spec}: no images to encode.")
    store = feature_store(clip, options.decoder, progress) if options.cache else None
    features, known = store.get(keys) if store else (None, np.zeros(len(keys), dtype=bool))
    todo = np.flatnonzero(~known)
    pending = Pending(store.add) if store else None
    done: list[int] = []
    fresh: list[Tensor] = []

    def keep(places: list[int], encoded: Tensor) -> None:
        rows = todo[places].tolist()
        done.extend(rows)
        fresh.append(encoded)
        if pending:
            pending.add([keys[row] for row in rows], encoded)

    broken: list[tuple[int, str]] = []
    if len(todo):
        try:
            with progress.task(f"Encoding {images.name}", len(todo), "images") as task:
                broken = _encode(clip, [images.paths[i] for i in todo.tolist()], options, task, keep)
        finally:
            # Features encoded so far are saved even after Ctrl-C, a broken file or a full disk.
            if pending:
                pending.flush()
        if store:
            store.tidy()
    whole = np.ones(len(keys), dtype=bool)
    whole[[todo[place] for place, _ in broken]] = False
    if not whole.any():
        raise UsageError(f"{images.spec}: none of its {len(keys)} images can be read. {broken[0][1]}")
    if features is None:
        features = torch.zeros(len(keys), fresh[0].shape[1])
    if fresh:
        features[done] = torch.cat(fresh)
    skipped = tuple(str(images.paths[todo[place]]) for place, _ in broken)
    kept = images.take(np.flatnonzero(whole)) if skipped else images
    if skipped:
        features = features[torch.from_numpy(whole)]
    return EncodedSet(
        kept, features, torch.from_numpy(kept.labels.copy()), skipped, tuple(message for _, message in broken)
    )


def feature_store(clip: Clip, decoder: Decoder, progress: Progress, *, partial: bool = False) -> FeatureStore:
    """Open the user's store of the features of a model.

    Args:
        clip: the model.
        decoder: the JPEG decoder.
        progress: receives warnings about damaged shards.
        partial: as for `FeatureStore`.
    """
    precision = str(clip.compute.dtype).removeprefix("torch.")
    preprocessing = pixel_reader(clip, decoder).preprocessing
    key = StoreKey(str(clip.identity), clip.identity.weights_sha256, preprocessing, precision)
    return FeatureStore(key, progress=progress, partial=partial)


def _encode(
    clip: Clip, paths: list[Path], options: EncodeOptions, task: Task, keep: Callable[[list[int], Tensor], None]
) -> list[tuple[int, str]]:
    """Encode files, pass the places and features of each batch to `keep`, and return place and message of broken files."""
    size = options.batch_size or IMAGES_PER_BATCH["features"][clip.device.type]
    batches = (paths[start : start + size] for start in range(0, len(paths), size))
    place = 0
    broken: list[tuple[int, str]] = []
    # All batches have one size, because cached features must not depend on the other images.
    for batch in run_everywhere(clip, batches, FEATURES, Reading(options.workers, options.decoder, size)):
        errors = [(place + i, error) for i, error in enumerate(batch.errors) if error is not None]
        if errors and options.on_error == "stop":
            raise BrokenImage(errors[0][1])
        broken += errors
        if batch.features is not None:
            keep([place + i for i, error in enumerate(batch.errors) if error is None], batch.features)
        place += len(batch.paths)
        task.advance(len(batch.paths))
    return broken
