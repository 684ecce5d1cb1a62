"""Cache image features on disk, so that the same model never encodes an image twice.

Each combination of model, weights, preprocessing and precision has a folder, called a store. A store consists of shards,
which are safetensors files with features and the keys of their images. A key is a digest of absolute path, size and
modification time. Known features are reused; other images are encoded and added as a new shard. So lists of images may
overlap in any way, an interrupted run resumes where it stopped, and processes that share a store never write to the same
file. A shard with a wrong checksum is removed with a warning, and its images are encoded again.

Short jobs write small shards, which are merged when there are many. Features from batches of other sizes differ by rounding.
Their shards have names that begin with "partial-", and they are used only on request, so a training never depends on images
that were scored before.

Nothing is removed automatically; `cache_folder.clear_cache` clears the cache.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from negprompt_cli import schemas
from negprompt_cli.data.encoding.cache_folder import VARIABLE, cache_folder
from negprompt_cli.data.files.atomic import atomic_write_bytes, atomic_write_text
from negprompt_cli.data.sets.packed import stored_in
from negprompt_cli.errors import NegPromptError
from negprompt_cli.progress import Progress

KEY_BYTES = 16
PARTIAL = "partial-"
"""Prefix of the names of shards whose features come from batches of other sizes."""
FEW_ROWS, MOST_SMALL = 2048, 32
"""Shards with fewer than FEW_ROWS rows are small. MOST_SMALL of them are merged into one of at most MERGED_ROWS rows."""
MERGED_ROWS = 16384
SHARD_IMAGES = 4096
"""Number of images after which new features are written to disk: minutes of work on a slow machine, a few MB."""


@dataclass(frozen=True)
class StoreKey:
    """Everything that features depend on, besides the image file."""

    model: str
    weights_sha256: str
    preprocessing: str
    precision: str

    @property
    def folder(self) -> str:
        """Name of the store's folder."""
        text = "\n".join((schemas.FEATURES, self.model, self.weights_sha256, self.preprocessing, self.precision))
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def image_keys(paths: Sequence[Path]) -> list[bytes]:
    """Return the current keys of N image files: digests of absolute path, size in bytes and modification time in ns.

    A link has the key of its target path. Images inside a container have the size and time of the container.

    Raises:
        OSError: a file does not exist any more.
    """
    return [image_key(path) for path in paths]


def image_key(path: Path) -> bytes:
    """Return the key of one image file, as `image_keys`."""
    stat = stored_in(path).stat()
    # Follow only one link, not all: the target is known by its own path, which may contain linked folders.
    named = path.parent / path.readlink() if path.is_symlink() else path
    text = f"{os.path.abspath(named)}\0{stat.st_size}\0{stat.st_mtime_ns}"  # noqa: PTH100 - resolves no links
    return hashlib.sha256(os.fsencode(text)).digest()[:KEY_BYTES]


@dataclass(frozen=True, eq=False)
class _Shard:
    """A file of the store: its keys (n,) of KEY_BYTES each, and the width F of its features, which remain on disk."""

    path: Path
    keys: NDArray[np.bytes_]
    width: int


class FeatureStore:
    """The cached features of one model; `get` reads and `add` stores features.

    Only keys are in memory. Features are read on demand; the checksum of a shard is checked when it is first read.

    Args:
        key: everything that the features depend on.
        progress: receives warnings about damaged shards.
        root: the folder of the cache, by default the user's.
        partial: whether to use features from batches of other sizes too.
    """

    def __init__(self, key: StoreKey, *, progress: Progress, root: Path | None = None, partial: bool = False) -> None:
        self._folder = (root or cache_folder()) / "features" / key.folder
        self._key, self._progress, self._partial = key, progress, partial
        self._shards: list[_Shard] = []
        self._sound: set[Path] = set()
        self._index: _Index | None = None
        self._scan()

    def get(self, keys: Sequence[bytes]) -> tuple[Tensor | None, np.ndarray]:
        """Look up N images.

        Returns:
            `features` (N, F), with rows of zeros for unknown images, or None if no image is known; and `known` (N,) bool.
        """
        while True:
            if self._index is None:
                self._index = _Index(self._shards)
            known, shards, places = self._index.find(keys)
            if not known.any():
                return None, known
            features = torch.zeros(len(keys), self._shards[0].width)
            if all(self._copy(shard, shards, places, features) for shard in sorted(set(shards[known].tolist()))):
                return features, known
            # A shard was removed, or another process merged it; its features may be in another shard.
            self._scan()

    def add(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Store features (n, F) of n images on disk and make them known to this process.

        Raises:
            NegPromptError: the shard cannot be written.
        """
        self._remember(self.write(keys, features))

    def write(self, keys: Sequence[bytes], features: Tensor, *, partial: bool = False) -> "_Shard":
        """Write features (n, F) of n images to disk without keeping their keys in memory, as endless jobs need.

        Args:
            keys: the keys of the images.
            features: their features.
            partial: whether they come from batches of other sizes.

        Raises:
            NegPromptError: as `add`.
        """
        table = torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES).copy())
        tensors = {"keys": table, "features": features.contiguous()}
        data = save(tensors, {"schema": schemas.FEATURES, "sha256": _checksum(table, features)})
        try:
            if not os.path.exists(self._folder / "store.json"):  # noqa: PTH110 - no error where the folder cannot be searched
                atomic_write_text(self._folder / "store.json", json.dumps(self._key.__dict__, indent=1))
            name = hashlib.sha256(data).hexdigest()[:24]
            path = self._folder / f"{PARTIAL if partial else ''}{name}.safetensors"
            atomic_write_bytes(path, data)
        except NegPromptError as error:
            raise NegPromptError(
                f"The feature cache cannot be written. {error} Set {VARIABLE}=FOLDER to use another folder for the cache.",
                remedy="cache-elsewhere",
            ) from error
        return _Shard(path, _keys(table), features.shape[1])

    def tidy(self) -> None:
        """Merge small shards if there were many when the store was opened; unreadable shards remain.

        Raises:
            NegPromptError: as `add`.
        """
        for partial in (False, True):
            small = [
                shard
                for shard in self._shards
                if len(shard.keys) < FEW_ROWS and shard.path.name.startswith(PARTIAL) == partial
            ]
            if len(small) < MOST_SMALL:
                continue
            merged: dict[bytes, Tensor] = {}
            done: list[_Shard] = []
            for shard in sorted(small, key=lambda shard: len(shard.keys)):
                if len(merged) + len(shard.keys) <= MERGED_ROWS and (features := self._read(shard)) is not None:
                    merged |= zip(_bytes(shard.keys), features, strict=True)
                    done.append(shard)
            if len(done) < 2:
                continue
            whole = self.write(list(merged), torch.stack(list(merged.values())), partial=partial)
            for shard in done:
                self._shards.remove(shard)
                if shard.path != whole.path:
                    with suppress(OSError):
                        shard.path.unlink()
            self._remember(whole)

    def _scan(self) -> None:
        """Read the keys of new shards; partial shards come last, because other shards have priority."""
        self._index = None
        known = {shard.path for shard in self._shards}
        # Names that begin with a dot are incomplete shards of running or killed processes.
        found = sorted(self._folder.glob("[!.]*.safetensors"), key=lambda path: (path.name.startswith(PARTIAL), path))
        for path in found:
            if path not in known and (self._partial or not path.name.startswith(PARTIAL)):
                self._open(path)

    def _open(self, path: Path) -> None:
        """Read the keys of a shard."""
        try:
            with safe_open(path, framework="pt") as opened:
                table, features = opened.get_tensor("keys"), opened.get_slice("features")
                sound = (opened.metadata() or {}).get("schema") == schemas.FEATURES
                shape, kind = features.get_shape(), features.get_dtype()
            sound &= _fit(table, shape, kind) and (not self._shards or self._shards[0].width == shape[1])
        except FileNotFoundError:
            return  # Another process removed it.
        except (SafetensorError, OSError, ValueError):
            sound = False
        if sound:
            self._remember(_Shard(path, _keys(table), shape[1]))
        else:
            self._drop(path)

    def _remember(self, shard: _Shard) -> None:
        self._shards.append(shard)
        self._index = None

    def _copy(self, number: int, shards: NDArray[np.int64], places: NDArray[np.int64], into: Tensor) -> bool:
        """Copy features of a shard to their rows; forget the shard if it is damaged or missing."""
        if (features := self._read(self._shards[number])) is None:
            return False
        rows = np.flatnonzero(shards == number)
        into[rows] = features[places[rows]]
        return True

    def _read(self, shard: _Shard) -> Tensor | None:
        """Return the features of a shard, mapped from disk; None if it is damaged or missing."""
        try:
            with safe_open(shard.path, framework="pt") as opened:
                features: Tensor = opened.get_tensor("features")
                sound = shard.path in self._sound or (opened.metadata() or {}).get("sha256") == _checksum(
                    opened.get_tensor("keys"), features
                )
        except FileNotFoundError:
            self._shards.remove(shard)
            return None
        except (SafetensorError, OSError, ValueError):
            sound = False
        if sound:
            self._sound.add(shard.path)
            return features
        self._shards.remove(shard)
        self._drop(shard.path)
        return None

    def _drop(self, path: Path) -> None:
        self._progress.warn(
            f"The feature cache file {path} is damaged. It is removed, and its images or texts are encoded again."
        )
        with suppress(OSError):  # If it cannot be removed, only this process ignores it.
            path.unlink()


class Pending:
    """New features, which are written shard by shard, the last ones when the context ends, even after an error.

    `write` is a method of a store; its errors are passed on.
    """

    def __init__(self, write: Callable[[list[bytes], Tensor], object]) -> None:
        self._write = write
        self._keys: list[bytes] = []
        self._features: list[Tensor] = []

    def __enter__(self) -> "Pending":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Add features (n, F) of n images."""
        self._keys += keys
        self._features.append(features)
        if len(self._keys) >= SHARD_IMAGES:
            self.flush()

    def flush(self) -> None:
        """Write the features that were added since the last shard."""
        keys, features = self._keys, self._features
        self._keys, self._features = [], []
        if keys:
            self._write(keys, torch.cat(features))


class _Index:
    """Finds shard and position of each key. It takes 16 + 8 bytes per key, a tenth of a dictionary."""

    def __init__(self, shards: Sequence[_Shard]) -> None:
        keys = np.concatenate([shard.keys for shard in shards]) if shards else np.empty(0, f"S{KEY_BYTES}")
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self._starts = np.cumsum([0, *(len(shard.keys) for shard in shards)])

    def find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Return for N keys: known (N,) bool; number of the shard and row in it, both (N,) int64, -1 if unknown."""
        wanted = np.frombuffer(b"".join(keys), dtype=f"S{KEY_BYTES}")
        shards, places = np.full((2, len(keys)), -1, dtype=np.int64)
        if not len(self._keys):
            return np.zeros(len(keys), dtype=bool), shards, places
        found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        known = self._keys[found] == wanted
        rows = self._order[found[known]]
        shards[known] = np.searchsorted(self._starts, rows, side="right") - 1
        places[known] = rows - self._starts[shards[known]]
        return known, shards, places


def _keys(table: Tensor) -> NDArray[np.bytes_]:
    """Convert keys (n, KEY_BYTES) uint8 to a numpy array (n,) of byte strings, which can be compared."""
    return np.frombuffer(table.numpy().tobytes(), dtype=f"S{KEY_BYTES}")


def _bytes(keys: NDArray[np.bytes_]) -> list[bytes]:
    """Convert keys (n,) to bytes, with the zeros at their ends that numpy removes."""
    data = keys.tobytes()
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]


def _fit(table: Tensor, shape: list[int], kind: str) -> bool:
    """Whether keys (n, KEY_BYTES) and features (n, F) have the types and shapes that `add` writes."""
    keys = table.dtype == torch.uint8 and table.dim() == 2 and table.shape[1] == KEY_BYTES
    return keys and kind == "F32" and len(shape) == 2 and shape[0] == len(table)


def _checksum(table: Tensor, features: Tensor) -> str:
    digest = hashlib.sha256(table.numpy().data)
    digest.update(features.contiguous().numpy().data)
    return digest.hexdigest()
