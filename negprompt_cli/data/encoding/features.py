"""Compute the features of an image set: read known features from the cache, encode the other images, and store them.

Each image is preprocessed by the model's own transform and encoded once. Broken images stop the job, or are skipped and
counted, depending on the options. There is no augmentation, because the frozen encoder processes each image only once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from negprompt_cli.choices import Decoder
from negprompt_cli.data.encoding.batches import IMAGES_PER_BATCH, Batch, Reading
from negprompt_cli.data.encoding.decoders import pixel_reader
from negprompt_cli.data.encoding.feature_cache import FeatureStore, Pending, StoreKey, image_keys
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.encoding.sharding import FEATURES, run_everywhere
from negprompt_cli.data.sets.imagesets import ImageSet
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.progress import Progress


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
    done: list[int] = []
    fresh: list[Tensor] = []
    broken: dict[int, str] = {}
    if len(todo):
        # Features encoded so far are saved even after Ctrl-C, a broken file or a full disk.
        with (
            Pending(store.add if store else lambda keys, features: None) as pending,
            progress.task(f"Encoding {images.name}", len(todo), "images") as task,
        ):
            for rows, batch in _encoded(clip, images, todo.tolist(), options):
                errors = {row: error for row, error in zip(rows, batch.errors, strict=True) if error is not None}
                if errors and options.on_error == "stop":
                    raise BrokenImage(next(iter(errors.values())))
                broken |= errors
                if batch.features is not None:
                    read = [row for row in rows if row not in errors]
                    done += read
                    fresh.append(batch.features)
                    pending.add([keys[row] for row in read], batch.features)
                task.advance(len(rows))
        if store:
            store.tidy()
    if len(broken) == len(keys):
        raise UsageError(f"{images.spec}: none of its {len(keys)} images can be read. {next(iter(broken.values()))}")
    if features is None:
        features = torch.zeros(len(keys), fresh[0].shape[1])
    if fresh:
        features[done] = torch.cat(fresh)
    skipped = tuple(str(images.paths[row]) for row in broken)
    if broken:
        whole = np.setdiff1d(np.arange(len(keys)), list(broken))
        images, features = images.take(whole), features[torch.from_numpy(whole)]
    return EncodedSet(images, features, torch.from_numpy(images.labels.copy()), skipped, tuple(broken.values()))


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


def _encoded(
    clip: Clip, images: ImageSet, rows: list[int], options: EncodeOptions
) -> Iterator[tuple[list[int], Batch]]:
    """Encode some rows of an image set, and yield the rows of each batch with its results.

    All batches have one size, because cached features must not depend on the other images.
    """
    size = options.batch_size or IMAGES_PER_BATCH["features"][clip.device.type]
    shares = [rows[start : start + size] for start in range(0, len(rows), size)]
    batches = ([images.paths[row] for row in share] for share in shares)
    reading = Reading(options.workers, options.decoder, size)
    yield from zip(shares, run_everywhere(clip, batches, FEATURES, reading), strict=True)
