"""Image paths in, features out, a batch at a time and in order: for lists that may never end.

Neither paths nor features are collected, so memory does not grow with their number beyond the keys that the feature cache
has of images it knew before. What the cache knows of a batch is taken from it, the rest is encoded and remembered. A batch
that is almost full is encoded as `features` does it and remembered for everybody; a smaller one is not filled up, because
one image has to be ready soon, and its features are remembered as partial (see `feature_cache`).
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from negprompt_cli.choices import Decoder
from negprompt_cli.data.encoding.batches import IMAGES_PER_BATCH, Batch, Reading
from negprompt_cli.data.encoding.feature_cache import FeatureStore, image_key
from negprompt_cli.data.encoding.features import SHARD_IMAGES
from negprompt_cli.data.encoding.sharding import FEATURES, run_everywhere
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError
from negprompt_cli.progress import Progress


@dataclass(frozen=True)
class Cache:
    """Where a stream looks for features and remembers them: a store that knows partial ones, and who is told of faults."""

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
    """Encode images as they are listed.

    Args:
        clip: the model.
        paths: image files, taken a few batches ahead of what is yielded.
        batch_size: images per batch, 0 to choose by device.
        workers: decoding processes, -1 to choose.
        decoder: what decodes JPEGs.
        cache: features known already; a cache that cannot be written is warned of once, and does without.

    Yields:
        Batches in the order of `paths`, with their features. Close it where it is left half way, so that what was encoded
        is remembered.
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
            # An empty batch keeps the order, and bounds how far the list is read ahead.
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
    """A batch of b images as the cache knows it: keys (None of a file that is not there), features (b, F) and (b,) known."""

    paths: Sequence[Path]
    keys: Sequence[bytes | None]
    features: Tensor | None
    known: NDArray[np.bool_]

    @property
    def unknown(self) -> list[Path]:
        """The images to encode."""
        return [path for path, known in zip(self.paths, self.known, strict=True) if not known]

    def merged(self, made: Batch) -> Batch:
        """All images in order, with what was made of the unknown ones."""
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
    except (OSError, ValueError):  # reading it says what is wrong
        return None


class _Keeper:
    """Collects fresh features and puts them on disk, a shard at a time, as long as that can be written."""

    def __init__(self, cache: Cache, least: int) -> None:
        self._cache, self._least = cache, least
        self._keys: dict[bool, list[bytes]] = {False: [], True: []}
        self._features: dict[bool, list[Tensor]] = {False: [], True: []}
        self._writes = True

    def add(self, batch: _LookedUp, made: Batch) -> None:
        """Take what was made of the unknown images of a batch."""
        if made.features is None or not self._writes:
            return
        unknown = itertools.compress(batch.keys, ~batch.known)
        partial = len(made.features) < self._least
        read = [(key, error is None) for key, error in zip(unknown, made.errors, strict=True)]
        kept = [key is not None for key, readable in read if readable]
        self._keys[partial] += [key for key, readable in read if readable and key is not None]
        self._features[partial].append(made.features if all(kept) else made.features[torch.tensor(kept)])
        if len(self._keys[partial]) >= SHARD_IMAGES:
            self._flush()

    def finish(self) -> None:
        """Put the rest on disk, also when the job is interrupted."""
        self._flush(tidy=True)

    def _flush(self, *, tidy: bool = False) -> None:
        store = self._cache.store
        try:
            for partial, keys in self._keys.items():
                if keys and self._writes:
                    store.write(keys, torch.cat(self._features[partial]), partial=partial)
                self._keys[partial], self._features[partial] = [], []
            if tidy and self._writes:
                store.tidy()
        except NegPromptError as error:
            self._writes = False
            self._cache.progress.warn(str(error))
