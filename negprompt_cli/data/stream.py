"""Image paths in, features out, a batch at a time and in order: for lists that may never end.

Nothing is kept of an image once its batch is out: memory does not grow with their number, neither paths nor features are
collected, and the feature cache, which would remember them all, is left out. A broken image is an entry with an error.
Decoding runs in worker processes and overlaps the encoder; where a device runs out of memory a batch is halved.
"""

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from negprompt_cli.data.images import BrokenImage, open_rgb
from negprompt_cli.engine.clip import Clip

FEW_IMAGES = 64
"""Up to here worker processes take longer to start than to help."""
BATCHES = {"cpu": 16, "mps": 64, "cuda": 256}
"""Images per batch by kind of device: enough to keep it busy, few enough that rows come out soon."""


@dataclass(frozen=True)
class StreamBatch:
    """b images in order: `features` (g, F) float32 on the CPU of the g readable ones, `errors` a message or None each."""

    paths: tuple[Path, ...]
    errors: tuple[str | None, ...]
    features: Tensor | None


@dataclass
class _Loaded:
    """One collated batch; `pixels` (g, 3, H, W) of the g readable images."""

    paths: tuple[Path, ...]
    errors: tuple[str | None, ...]
    pixels: Tensor | None


class _Files(Dataset[tuple[Path, Tensor | None, str | None]]):
    """Decodes files by path: the loader's "indices" are paths, which a sampler may make up as it goes."""

    def __init__(self, preprocess: Any) -> None:
        self._preprocess = preprocess

    def __getitem__(self, path: Path) -> tuple[Path, Tensor | None, str | None]:
        try:
            return path, self._preprocess(open_rgb(path)), None
        except BrokenImage as error:
            return path, None, str(error)


def stream_features(
    clip: Clip, paths: Iterable[Path], *, batch_size: int = 0, workers: int = -1
) -> Iterator[StreamBatch]:
    """Encode images as they are listed.

    Args:
        clip: the model.
        paths: image files, taken a few batches ahead of what is yielded.
        batch_size: images per batch, 0 to choose by device.
        workers: decoding processes, -1 to choose.

    Yields:
        Batches in the order of `paths`.
    """
    size = batch_size or BATCHES[clip.device.type]
    source = iter(paths)
    first = list(itertools.islice(source, FEW_IMAGES + 1))
    if workers < 0:
        workers = 0 if len(first) <= FEW_IMAGES else _worker_count()
    loader: DataLoader[Any] = DataLoader(
        _Files(clip.preprocess),
        batch_sampler=_batches(itertools.chain(first, source), size),
        collate_fn=_collate,
        num_workers=workers,
    )
    ahead = len(clip.replicas) + 1
    waiting: deque[tuple[_Loaded, Future[Tensor] | None]] = deque()
    with ThreadPoolExecutor(len(clip.replicas)) as pool:
        for number, loaded in enumerate(loader):
            job = None
            if loaded.pixels is not None:
                job = pool.submit(_encode, clip, loaded.pixels, number % len(clip.replicas))
            waiting.append((_Loaded(loaded.paths, loaded.errors, None), job))
            if len(waiting) >= ahead:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _batches(paths: Iterator[Path], size: int) -> Iterator[list[Path]]:
    while batch := list(itertools.islice(paths, size)):
        yield batch


def _collate(items: list[tuple[Path, Tensor | None, str | None]]) -> _Loaded:
    pixels = [pixels for _, pixels, _ in items if pixels is not None]
    return _Loaded(
        tuple(path for path, _, _ in items),
        tuple(error for _, _, error in items),
        torch.stack(pixels) if pixels else None,
    )


def _encode(clip: Clip, pixels: Tensor, replica: int) -> Tensor:
    try:
        return clip.encode_images(pixels, replica=replica).cpu()
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
        half = len(pixels) // 2
        return torch.cat([_encode(clip, pixels[:half], replica), _encode(clip, pixels[half:], replica)])


def _finished(loaded: _Loaded, job: "Future[Tensor] | None") -> StreamBatch:
    return StreamBatch(loaded.paths, loaded.errors, job.result() if job else None)


def _worker_count() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores - 1))
