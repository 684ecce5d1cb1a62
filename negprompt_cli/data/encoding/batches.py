"""Batches of image files through a model on this process's device: decoded in workers, in order, broken files named.

Decoding runs in worker processes (a torch DataLoader over paths, which may be made up as it goes) and overlaps the model.
Workers are forked from a server process without threads: a fork of this process could inherit a lock that one of its
threads holds, of which Python warns since 3.12. While that server starts, this process decodes the first images itself.
Nothing is kept of an image once its batch is out. A broken image is an entry with an error. Where the device runs out of
memory a batch is halved. Leaves out: which batches (the caller's), and other processes (see `sharding`).
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
"""Images per batch by what is computed and kind of device: enough to keep it busy, and few enough that first rows come out
soon. Features of every patch take more room than one feature of an image."""
FEW_IMAGES = 64
"""Up to here worker processes take longer to start than to help."""
_AHEAD = 8
"""Most batches that are taken before the first is decoded; they may be empty."""

_FROM_SERVER = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)

Work = Callable[[Clip, Tensor], dict[str, Tensor]]
"""What is done with g preprocessed images (g, 3, H, W): named tensors on the CPU, each with g rows."""


@dataclass(frozen=True)
class Reading:
    """How a process reads its batches.

    `workers`: decoding processes, -1 to choose. `decoder`: what decodes JPEGs. `size`: images that a smaller batch of at
    least `least` readable images is filled up to for the work, 0 for none; products of other shapes are rounded otherwise,
    and in batches of one size an image has the same bits whatever images come with it.
    """

    workers: int = -1
    decoder: Decoder = "pil"
    size: int = 0
    least: int = 0


@dataclass(frozen=True)
class Batch:
    """b images in order, and what was made of the g readable ones.

    `errors`: a message or None for each image. `results`: named tensors of g rows, none where g is 0. `known`: how many of
    the features were in the cache already.
    """

    paths: tuple[Path, ...]
    errors: tuple[str | None, ...]
    results: dict[str, Tensor] = field(default_factory=dict)
    known: int = 0

    @property
    def features(self) -> Tensor | None:
        """(g, F) float32 features of the readable images, where they are what was asked for."""
        return self.results.get("features")


def image_features(clip: Clip, pixels: Tensor) -> dict[str, Tensor]:
    """The usual work: 'features' (g, F) float32, L2-normalised."""
    # A plain copy, because tensors made under inference mode cannot take part in training.
    return {"features": clip.encode_images(pixels).cpu().clone()}


def run_batches(
    clip: Clip,
    batches: Iterable[Sequence[Path]],
    work: Work,
    reading: Reading,
) -> Generator[Batch, None, None]:
    """Decode batches of image files and do `work` on each.

    Args:
        clip: the model with its preprocessing.
        batches: paths, taken a few batches ahead of what is yielded.
        work: done in the order of the batches, while the next ones are decoded.
        reading: decoding processes, decoder and size.

    Yields:
        The batches in order.

    Raises:
        UsageError: the decoder is not installed, or does not know the model's preprocessing.
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
    """Decoding processes worth starting for this process: its share of the machine's cores, less one, 1 to 16."""
    return max(1, min(16, usable_cores() // ranks_from_environment().local_size - 1))


@dataclass
class _Loaded:
    """One collated batch; `pixels` (g, 3, H, W). A class of its own so that the loader pins its pixels and nothing else."""

    paths: tuple[Path, ...]
    errors: tuple[str | None, ...]
    pixels: Tensor | None

    def pin_memory(self) -> "_Loaded":
        """Called by the DataLoader's pinning thread."""
        return _Loaded(self.paths, self.errors, None if self.pixels is None else self.pixels.pin_memory())


class _Files(Dataset[tuple[Path, Tensor | None, str | None]]):
    """Decodes files by path; a broken one is an item without pixels, so that its worker lives on."""

    def __init__(self, read: Callable[[Path], Tensor]) -> None:
        self._read = read

    def __getitem__(self, path: Path) -> tuple[Path, Tensor | None, str | None]:
        try:
            return path, self._read(path), None
        except BrokenImage as error:
            return path, None, str(error)


def _load(files: _Files, batches: Iterator[Sequence[Path]], workers: int, *, pin: bool) -> Iterator[_Loaded]:
    """Decode batches, in order: the first here, the others in workers, unless few follow."""
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
    """Start the process that workers are forked from, once; it imports what they need while this process works on."""
    if _FROM_SERVER.get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver  # not there on Windows

    _FROM_SERVER.set_forkserver_preload([__name__, "open_clip"])
    # Ctrl-C goes to all processes of a terminal, and this one ends the others: a server that imports would complain.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep new processes from running the main script, which they have no need of and which may have no guard."""
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
    """Do the work on a batch, filled up as `reading` says."""
    count = len(pixels)
    if count >= reading.size or count < reading.least:
        return _work(clip, pixels, work)
    filler = pixels.new_zeros(reading.size - count, *pixels.shape[1:])
    return {name: rows[:count] for name, rows in _work(clip, torch.cat([pixels, filler]), work).items()}


def _work(clip: Clip, pixels: Tensor, work: Work) -> dict[str, Tensor]:
    """Do the work on one batch; where the device runs out of memory, in halves."""
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
    """Take batches until they hold more than `images` images; at least one, at most `_AHEAD`."""
    taken: list[Sequence[Path]] = []
    while (batch := next(batches, None)) is not None:
        taken.append(batch)
        if sum(map(len, taken)) > images or len(taken) == _AHEAD:
            break
    return taken
