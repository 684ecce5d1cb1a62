"""Image files in, features out: decoding in worker processes, encoding on every device, results in order.

Each image is decoded and preprocessed by the model's own transform (in a torch DataLoader, so that decoding overlaps the
encoder), encoded once, and remembered in the feature cache. Broken images stop the job or are skipped and counted, as
asked. Leaves out: augmentation, since a frozen encoder sees each image once.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from negprompt_cli.data.feature_cache import FeatureStore, StoreKey, image_keys
from negprompt_cli.data.images import BrokenImage, open_rgb
from negprompt_cli.data.imagesets import ImageSet
from negprompt_cli.data.progress import Progress, Task
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError, UsageError

SHARD_IMAGES = 4096
"""Images after which what is encoded so far is put on disk: minutes of work on a slow machine, a few MB."""
FEW_IMAGES = 64
"""Up to here worker processes take longer to start than to help."""


@dataclass(frozen=True)
class EncodedSet:
    """Features of an image set.

    `features` (N, F) float32 on the CPU, L2-normalised; `labels` (N,) int64, -1 where unlabelled; `images` the set they
    are of, without skipped files; `skipped` the broken files left out.
    """

    images: ImageSet
    features: Tensor
    labels: Tensor
    skipped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode; no option changes a feature beyond rounding.

    `batch_size` 0 and `workers` -1 choose by hardware. `cache` None keeps features off the disk.
    """

    batch_size: int = 0
    workers: int = -1
    on_error: Literal["stop", "skip"] = "stop"
    cache: bool = True


def encode_images(clip: Clip, images: ImageSet, options: EncodeOptions, progress: Progress) -> EncodedSet:
    """Encode an image set, taking what the cache knows.

    Raises:
        BrokenImage: a file cannot be read as an image and `options.on_error` is 'stop'.
        UsageError: nothing is left after skipping broken files.
    """
    try:
        keys = image_keys(images.paths)
    except OSError as error:
        raise NegPromptError(f"{error.filename} is gone since the folder was listed. Run again.") from error
    precision = str(clip.compute.dtype).removeprefix("torch.")
    key = StoreKey(str(clip.identity), clip.identity.weights_sha256, clip.preprocessing, precision)
    store = FeatureStore(key, progress=progress) if options.cache else None
    found, known = store.get(keys) if store else (None, np.zeros(len(keys), dtype=bool))
    todo = np.flatnonzero(~known)
    broken: list[tuple[int, str]] = []
    features = found
    if len(todo):
        rows = _Rows(store, keys, todo)
        title = f"Encoding {images.name}"
        with progress.task(title, len(todo), "images") as task:
            _encode(clip, [images.paths[i] for i in todo.tolist()], options, task, rows, broken)
        fresh, done = rows.finish()
        if features is None:
            features = torch.zeros(len(keys), fresh.shape[1])
        features[done] = fresh
    if features is None:
        raise UsageError(f"{images.spec}: no images to encode.")
    keep = np.ones(len(keys), dtype=bool)
    keep[[todo[place] for place, _ in broken]] = False
    skipped = tuple(str(images.paths[todo[place]]) for place, _ in broken)
    for _, message in broken:
        progress.warn(f"skipped: {message}")
    if not keep.any():
        raise UsageError(f"{images.spec}: none of its {len(keys)} images can be read.")
    kept = images.take(np.flatnonzero(keep)) if skipped else images
    return EncodedSet(kept, features[torch.from_numpy(keep)], torch.from_numpy(kept.labels.copy()), skipped)


class _Rows:
    """Collects features as they come and puts them into the store a shard at a time."""

    def __init__(self, store: FeatureStore | None, keys: list[bytes], todo: np.ndarray) -> None:
        self._store, self._keys, self._todo = store, keys, todo
        self._parts: list[Tensor] = []
        self._done: list[int] = []
        self._pending: list[Tensor] = []
        self._pending_places: list[int] = []

    def add(self, features: Tensor, places: list[int]) -> None:
        """Take features (b, F) of the images at `places` of the list to do."""
        self._pending.append(features)
        self._pending_places += places
        if len(self._pending_places) >= SHARD_IMAGES:
            self.flush()

    def flush(self) -> None:
        """Put what has come since the last time on disk."""
        if not self._pending_places:
            return
        features = torch.cat(self._pending)
        rows = [int(self._todo[p]) for p in self._pending_places]
        if self._store:
            self._store.add([self._keys[r] for r in rows], features)
        self._parts.append(features)
        self._done += rows
        self._pending, self._pending_places = [], []

    def finish(self) -> tuple[Tensor, list[int]]:
        """Features (n, F) and the rows of the whole list they belong to."""
        self.flush()
        return (torch.cat(self._parts) if self._parts else torch.zeros(0, 0)), self._done


class _Images(Dataset[tuple[int, Tensor | None, str]]):
    """Decodes and preprocesses files; a broken one is an item without pixels, so that its worker lives on."""

    def __init__(self, paths: list[Path], preprocess: Any) -> None:
        self._paths, self._preprocess = paths, preprocess

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, str]:
        try:
            return index, self._preprocess(open_rgb(self._paths[index])), ""
        except BrokenImage as error:
            return index, None, str(error)


@dataclass
class _Batch:
    """One collated batch; a class of its own so that the loader pins its pixels and nothing else."""

    places: list[int]
    pixels: Tensor | None
    broken: list[tuple[int, str]]

    def pin_memory(self) -> "_Batch":
        """Called by the DataLoader's pinning thread."""
        return _Batch(self.places, None if self.pixels is None else self.pixels.pin_memory(), self.broken)


def _collate(items: list[tuple[int, Tensor | None, str]]) -> _Batch:
    good = [(index, pixels) for index, pixels, _ in items if pixels is not None]
    broken = [(index, message) for index, pixels, message in items if pixels is None]
    return _Batch([i for i, _ in good], torch.stack([p for _, p in good]) if good else None, broken)


def _encode(
    clip: Clip, paths: list[Path], options: EncodeOptions, task: Task, rows: _Rows, broken: list[tuple[int, str]]
) -> None:
    cuda = clip.device.type == "cuda"
    workers = _workers(options.workers, len(paths))
    loader: DataLoader[Any] = DataLoader(
        _Images(paths, clip.preprocess),
        batch_size=options.batch_size or (256 if clip.device.type != "cpu" else 32),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=cuda,
        prefetch_factor=4 if workers else None,
    )
    count = len(clip.replicas)
    try:
        with ThreadPoolExecutor(count) as pool:
            for batch, features in _in_order(loader, clip, pool, ahead=2 * count):
                if batch.broken and options.on_error == "stop":
                    raise BrokenImage(batch.broken[0][1])
                broken += batch.broken
                if features is not None:
                    rows.add(features, batch.places)
                task.advance(len(batch.places) + len(batch.broken))
    except BaseException:
        # What is encoded already is not lost to Ctrl-C, a broken file or a full disk further on.
        rows.flush()
        raise


def _in_order(
    loader: "DataLoader[Any]", clip: Clip, pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[tuple[_Batch, Tensor | None]]:
    """Encode batches on the devices in turn; yield them in the loader's order with features on the CPU."""
    waiting: deque[tuple[_Batch, Future[Tensor] | None]] = deque()
    for number, batch in enumerate(loader):
        job = None
        if batch.pixels is not None:
            job = pool.submit(_encode_one, clip, batch.pixels, number % len(clip.replicas))
        waiting.append((_Batch(batch.places, None, batch.broken), job))
        while len(waiting) >= ahead:
            done, result = waiting.popleft()
            yield done, result.result() if result else None
    while waiting:
        done, result = waiting.popleft()
        yield done, result.result() if result else None


def _encode_one(clip: Clip, pixels: Tensor, replica: int) -> Tensor:
    """Encode one batch; where the device runs out of memory, in halves."""
    try:
        # A plain copy, because tensors made under inference mode cannot take part in training.
        return clip.encode_images(pixels, replica=replica).cpu().clone()
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
        half = len(pixels) // 2
        return torch.cat([_encode_one(clip, pixels[:half], replica), _encode_one(clip, pixels[half:], replica)])


def _workers(asked: int, images: int) -> int:
    if asked >= 0:
        return asked
    if images <= FEW_IMAGES:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores - 1))
