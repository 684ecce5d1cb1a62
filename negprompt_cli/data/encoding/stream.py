"""Compute the features of a stream of image paths, batch by batch and in order; the stream may be endless.

Neither paths nor features are collected. Memory grows only with the keys of images that the feature cache knew before.
Features in the cache are reused; other images are encoded and stored. An almost full batch is padded and encoded as in
`features`, so all commands can use its features. A smaller batch is not padded, because results should come soon; its
features are stored as partial (see `feature_cache`).
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from negprompt_cli.choices import Decoder
from negprompt_cli.data.encoding.batches import IMAGES_PER_BATCH, Batch, Reading
from negprompt_cli.data.encoding.feature_cache import FeatureStore, Pending, image_key
from negprompt_cli.data.encoding.sharding import FEATURES, run_everywhere
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError
from negprompt_cli.progress import Progress


@dataclass(frozen=True)
class Cache:
    """The cache of a stream: a store that also uses partial features, and the receiver of warnings."""

    store: FeatureStore
    progress: Progress


def stream_features(
    clip: Clip,
    paths: Iterable[Path],
    *,
    batch_size: int = 0,
    workers: int = -1,
    decoder: Decoder = "pil",
    cache: Cache | None = None,
) -> Generator[Batch, None, None]:
    """Encode images while they are listed.

    Args:
        clip: the model.
        paths: image files, read a few batches ahead of the results.
        batch_size: images per batch; 0 chooses by device.
        workers: number of decoding processes; -1 chooses automatically.
        decoder: the JPEG decoder.
        cache: known features. If the cache cannot be written, there is one warning, and work continues without it.

    Yields:
        Batches in the order of `paths`, with their features. Close the generator if you stop early, so that new features
        are stored.
    """
    size = batch_size or IMAGES_PER_BATCH["features"][clip.device.type]
    batches = _batches(iter(paths), size)
    if cache is None:
        yield from run_everywhere(clip, batches, FEATURES, Reading(workers, decoder), first=1)
        return
    looked_up: deque[_LookedUp] = deque()

    def unknown() -> Iterator[Sequence[Path]]:
        for batch in batches:
            looked_up.append(_look_up(cache.store, batch))
            # Empty batches are passed on too: they keep the order and limit how far the list is read ahead.
            yield looked_up[-1].unknown

    reading = Reading(workers, decoder, size, least=3 * size // 4)
    keeper = _Keeper(cache, reading.least)
    try:
        for made in run_everywhere(clip, unknown(), FEATURES, reading, first=1):
            batch = looked_up.popleft()
            keeper.add(batch, made)
            yield batch.merged(made)
    finally:
        keeper.finish()


def _batches(paths: Iterator[Path], size: int) -> Iterator[list[Path]]:
    while batch := list(itertools.islice(paths, size)):
        yield batch


@dataclass(frozen=True)
class _LookedUp:
    """A batch of b images in the cache: keys (None if a file does not exist), features (b, F), and known (b,) bool."""

    paths: Sequence[Path]
    keys: Sequence[bytes | None]
    features: Tensor | None
    known: NDArray[np.bool_]

    @property
    def unknown(self) -> list[Path]:
        """The images to encode."""
        return [path for path, known in zip(self.paths, self.known, strict=True) if not known]

    def merged(self, made: Batch) -> Batch:
        """Return all images in order, with the results of the unknown ones in `made`."""
        if self.features is None:
            return made
        fresh = iter(made.errors)
        errors = tuple(None if known else next(fresh) for known in self.known.tolist())
        features = self.features
        if made.features is not None:
            read = [not known and error is None for known, error in zip(self.known.tolist(), errors, strict=True)]
            features[torch.tensor(read)] = made.features
        kept = torch.tensor([error is None for error in errors])
        return Batch(tuple(self.paths), errors, {"features": features[kept]}, known=int(self.known.sum()))


def _look_up(store: FeatureStore, paths: Sequence[Path]) -> _LookedUp:
    keys = [_key(path) for path in paths]
    present = np.array([key is not None for key in keys])
    known = np.zeros(len(keys), dtype=bool)
    if not present.any():
        return _LookedUp(paths, keys, None, known)
    found, known[present] = store.get([key for key in keys if key is not None])
    if found is None or present.all():
        return _LookedUp(paths, keys, found, known)
    features = torch.zeros(len(keys), found.shape[1])
    features[torch.from_numpy(present)] = found
    return _LookedUp(paths, keys, features, known)


def _key(path: Path) -> bytes | None:
    try:
        return image_key(path)
    except (OSError, ValueError):  # Reading the file later reports the error.
        return None


class _Keeper:
    """Collects new features and writes them to disk shard by shard, as long as writing works."""

    def __init__(self, cache: Cache, least: int) -> None:
        self._cache, self._least, self._works = cache, least, True
        self._pending = [Pending(partial(cache.store.write, partial=small)) for small in (False, True)]

    def add(self, batch: _LookedUp, made: Batch) -> None:
        """Add the features of the unknown images of a batch."""
        if made.features is None:
            return
        unknown = itertools.compress(batch.keys, ~batch.known)
        keys = [key for key, error in zip(unknown, made.errors, strict=True) if error is None]
        features = made.features[torch.tensor([key is not None for key in keys])]
        small = len(made.features) < self._least
        self._try(lambda: self._pending[small].add([key for key in keys if key is not None], features))

    def finish(self) -> None:
        """Write the rest to disk; also called when the job is interrupted."""
        for write in (*(pending.flush for pending in self._pending), self._cache.store.tidy):
            self._try(write)

    def _try(self, write: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            write()
        except NegPromptError as error:
            self._works = False
            self._cache.progress.warn(str(error))
