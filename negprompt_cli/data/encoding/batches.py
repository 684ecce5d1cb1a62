"""Process batches of image files with a model on this process's device, in order.

Worker processes decode images (a torch DataLoader over paths, which may be generated on the fly) while the model computes.
Workers are forked from a server process without threads, because a fork of this process could inherit a lock held by
another thread (Python warns about this since 3.12). While the server starts, this process decodes the first images itself.

After a batch is returned, nothing of its images is kept. A broken image becomes an entry with an error message. If the
device runs out of memory, the batch is halved. The caller forms the batches; `sharding` uses other processes.
"""

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from negprompt_cli.choices import Decoder
from negprompt_cli.data.encoding.decoders import pixel_reader
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.parallel.ranks import ranks_from_environment, usable_cores

IMAGES_PER_BATCH: Mapping[str, Mapping[str, int]] = {
    "features": {"cpu": 16, "mps": 64, "cuda": 256},
    "patches": {"cpu": 16, "mps": 64, "cuda": 64},
}
"""Images per batch, by the kind of features and of device: enough to use the device well, and few enough for fast first
results. Features of patches need more memory than one feature per image."""
FEW_IMAGES = 64
"""For up to this many images, starting worker processes takes longer than they save."""
_AHEAD = 8
"""Largest number of batches read ahead before the first is decoded; they may be empty."""

_FROM_SERVER = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)

Work = Callable[[Clip, Tensor], dict[str, Tensor]]
"""A function of g preprocessed images (g, 3, H, W) that returns named tensors on the CPU, each with g rows."""


@dataclass(frozen=True)
class Reading:
    """How a process reads its batches.

    `workers`: number of decoding processes, -1 to choose automatically. `decoder`: the JPEG decoder. `size`: smaller batches
    with at least `least` readable images are padded to this size, 0 for no padding. Matrix products of other shapes round
    differently; in batches of one size the feature of an image does not depend on the other images.
    """

    workers: int = -1
    decoder: Decoder = "pil"
    size: int = 0
    least: int = 0


@dataclass(frozen=True)
class Batch:
    """b images in order, and the results of the g readable ones.

    `errors`: a message or None for each image. `results`: named tensors of g rows; empty if g is 0. `known`: number of
    features that were in the cache already.
    """

    paths: tuple[Path, ...]
    errors: tuple[str | None, ...]
    results: dict[str, Tensor] = field(default_factory=dict)
    known: int = 0

    @property
    def features(self) -> Tensor | None:
        """(g, F) float32 features of the readable images, or None if features were not computed."""
        return self.results.get("features")


def image_features(clip: Clip, pixels: Tensor) -> dict[str, Tensor]:
    """Compute 'features' (g, F), float32 and L2-normalised, of g preprocessed images."""
    # A copy, because tensors made in inference mode cannot be used in training.
    return {"features": clip.encode_images(pixels).cpu().clone()}


def run_batches(
    clip: Clip,
    batches: Iterable[Sequence[Path]],
    work: Work,
    reading: Reading,
) -> Generator[Batch, None, None]:
    """Decode batches of image files and apply `work` to each.

    Args:
        clip: the model with its preprocessing.
        batches: batches of paths, read a few batches ahead of the results.
        work: function applied to the batches in order, while the next ones are decoded.
        reading: decoding processes, decoder and batch size.

    Yields:
        The batches in order.

    Raises:
        UsageError: the decoder is not installed, or does not support the model's preprocessing.
    """
    files, pin = _Files(pixel_reader(clip, reading.decoder)), clip.device.type == "cuda"
    loader = _load(files, iter(batches), reading.workers, pin=pin)
    waiting: deque[tuple[_Loaded, Future[dict[str, Tensor]] | None]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for loaded in loader:
            job = None if loaded.pixels is None else pool.submit(_work_filled, clip, loaded.pixels, work, reading)
            waiting.append((_Loaded(loaded.paths, loaded.errors, None), job))
            if len(waiting) > 1:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def worker_count() -> int:
    """Return a good number of decoding processes for this process: its share of the cores minus one, from 1 to 16."""
    return max(1, min(16, usable_cores() // ranks_from_environment().local_size - 1))


@dataclass
class _Loaded:
    """A collated batch; `pixels` is (g, 3, H, W). It is a class so that the loader pins only its pixels."""

    paths: tuple[Path, ...]
    errors: tuple[str | None, ...]
    pixels: Tensor | None

    def pin_memory(self) -> "_Loaded":
        """Pin the pixels; the DataLoader's pinning thread calls it."""
        return _Loaded(self.paths, self.errors, None if self.pixels is None else self.pixels.pin_memory())


class _Files(Dataset[tuple[Path, Tensor | None, str | None]]):
    """Decodes files by path; a broken file gives an item without pixels, so that the worker does not fail."""

    def __init__(self, read: Callable[[Path], Tensor]) -> None:
        self._read = read

    def __getitem__(self, path: Path) -> tuple[Path, Tensor | None, str | None]:
        try:
            return path, self._read(path), None
        except BrokenImage as error:
            return path, None, str(error)


def _load(files: _Files, batches: Iterator[Sequence[Path]], workers: int, *, pin: bool) -> Iterator[_Loaded]:
    """Decode batches in order: the first ones in this process, the others in workers if there are enough images."""
    here = 0
    while here <= FEW_IMAGES or not workers:
        first = _up_to(batches, FEW_IMAGES - here)
        if not first:
            return
        here += sum(map(len, first))
        if workers < 0 and here > FEW_IMAGES:
            workers = worker_count()
        if workers > 0:
            _start_server()
        for paths in first:
            loaded = _collate([files[path] for path in paths])
            yield loaded.pin_memory() if pin else loaded
    loader: DataLoader[Any] = DataLoader(
        files,
        batch_sampler=map(list, batches),
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4,
        multiprocessing_context=_FROM_SERVER,
    )
    with _main_module_hidden():
        loading = iter(loader)
    yield from loading


def _start_server() -> None:
    """Start the server process from which workers are forked, once; it imports what they need in the background."""
    if _FROM_SERVER.get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver  # This module does not exist on Windows.

    _FROM_SERVER.set_forkserver_preload([__name__, "open_clip"])
    # Ctrl-C reaches all processes of a terminal; the server would print a traceback. This process ends it anyway.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Prevent new processes from running the main script: they do not need it, and it may lack a `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _collate(items: list[tuple[Path, Tensor | None, str | None]]) -> _Loaded:
    pixels = [pixels for _, pixels, _ in items if pixels is not None]
    return _Loaded(
        tuple(path for path, _, _ in items),
        tuple(error for _, _, error in items),
        torch.stack(pixels) if pixels else None,
    )


def _work_filled(clip: Clip, pixels: Tensor, work: Work, reading: Reading) -> dict[str, Tensor]:
    """Apply the work to a batch, padded as `reading` says."""
    count = len(pixels)
    if count >= reading.size or count < reading.least:
        return _work(clip, pixels, work)
    filler = pixels.new_zeros(reading.size - count, *pixels.shape[1:])
    return {name: rows[:count] for name, rows in _work(clip, torch.cat([pixels, filler]), work).items()}


def _work(clip: Clip, pixels: Tensor, work: Work) -> dict[str, Tensor]:
    """Apply the work to one batch; if the device runs out of memory, to its halves."""
    try:
        return work(clip, pixels)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
        half = len(pixels) // 2
        parts = [_work(clip, pixels[:half], work), _work(clip, pixels[half:], work)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _finished(loaded: _Loaded, job: "Future[dict[str, Tensor]] | None") -> Batch:
    return Batch(loaded.paths, loaded.errors, job.result() if job else {})


def _up_to(batches: Iterator[Sequence[Path]], images: int) -> list[Sequence[Path]]:
    """Take batches until they have more than `images` images; at least one batch, at most `_AHEAD`."""
    taken: list[Sequence[Path]] = []
    while (batch := next(batches, None)) is not None:
        taken.append(batch)
        if sum(map(len, taken)) > images or len(taken) == _AHEAD:
            break
    return taken
