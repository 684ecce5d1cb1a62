"""Image features on disk, so that no image is ever encoded twice by the same model.

One folder per model, weights, preprocessing and precision ("store"); in it, shards of safetensors holding features and the
keys of the images they are of: digests of absolute path, size and modification time. Lists of images may overlap in any
way (other seeds, other shots, --limit): what is known is reused, the rest is encoded and added as a new shard, so an
interrupted run goes on where it stopped and processes that share a store never write to the same file. A shard whose
checksum does not fit is dropped with a notice and its images are encoded again.

Leaves out: eviction; `negprompt cache clear` empties the cache.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from negprompt_cli.data.atomic import atomic_write_bytes, atomic_write_text
from negprompt_cli.data.cache_folder import VARIABLE, cache_folder
from negprompt_cli.data.progress import Progress
from negprompt_cli.data.torchsets import stored_in
from negprompt_cli.errors import NegPromptError

SCHEMA = "negprompt/features/1"
KEY_BYTES = 16


@dataclass(frozen=True)
class StoreKey:
    """What features depend on besides the image file."""

    model: str
    weights_sha256: str
    preprocessing: str
    precision: str

    @property
    def folder(self) -> str:
        """Name of the store's folder."""
        text = "\n".join((SCHEMA, self.model, self.weights_sha256, self.preprocessing, self.precision))
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def image_keys(paths: Sequence[Path]) -> list[bytes]:
    """Keys of N image files as they are now: digests of absolute path, size in bytes and modification time in ns.

    Images that torchvision keeps together in one file have that file's size and time.

    Raises:
        OSError: a file is gone.
    """
    keys = []
    for path in paths:
        stat = stored_in(path).stat()
        text = f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}"  # noqa: PTH100 - a Path per file is slow
        keys.append(hashlib.sha256(os.fsencode(text)).digest()[:KEY_BYTES])
    return keys


class FeatureStore:
    """Features known for one model; `get` looks up, `add` remembers.

    Args:
        key: what the features depend on.
        progress: told about damaged shards.
        root: the cache's folder, by default the user's.
    """

    def __init__(self, key: StoreKey, *, progress: Progress, root: Path | None = None) -> None:
        self._folder = (root or cache_folder()) / "features" / key.folder
        self._key, self._progress = key, progress
        self._places: dict[bytes, tuple[int, int]] = {}
        self._shards: list[Tensor] = []
        # Names with a dot in front are shards that other processes are writing, or that a killed one left half written.
        for path in sorted(self._folder.glob("[!.]*.safetensors")):
            self._read(path)

    def get(self, keys: Sequence[bytes]) -> tuple[Tensor | None, np.ndarray]:
        """Look up N images.

        Returns:
            features (N, F) with rows of zeros where unknown, or None where nothing is known; and known (N,) bool.
        """
        known = np.fromiter((key in self._places for key in keys), dtype=bool, count=len(keys))
        if not known.any():
            return None, known
        features = torch.zeros(len(keys), self._shards[0].shape[1])
        shards: dict[int, tuple[list[int], list[int]]] = {}
        for row in np.flatnonzero(known).tolist():
            shard, place = self._places[keys[row]]
            rows, places = shards.setdefault(shard, ([], []))
            rows.append(row)
            places.append(place)
        for shard, (rows, places) in shards.items():
            features[rows] = self._shards[shard][places]
        return features, known

    def add(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Remember features (n, F) of n images, on disk and for this process.

        Raises:
            NegPromptError: the shard cannot be written; says how to go on without it.
        """
        table = torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES).copy())
        tensors = {"keys": table, "features": features.contiguous()}
        data = save(tensors, {"schema": SCHEMA, "sha256": _checksum(table, features)})
        try:
            if not os.path.exists(self._folder / "store.json"):  # noqa: PTH110 - no error where the folder cannot be searched
                atomic_write_text(self._folder / "store.json", json.dumps(self._key.__dict__, indent=1))
            atomic_write_bytes(self._folder / f"{hashlib.sha256(data).hexdigest()[:24]}.safetensors", data)
        except NegPromptError as error:
            raise NegPromptError(
                f"The feature cache cannot take what was encoded. {error} {VARIABLE}=FOLDER names another place for the "
                "cache, --no-cache does without."
            ) from error
        self._remember(table, features)

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as opened:
                metadata = opened.metadata() or {}
                table, features = opened.get_tensor("keys"), opened.get_tensor("features")
            sound = _fit(table, features) and metadata.get("sha256") == _checksum(table, features)
            sound &= metadata.get("schema") == SCHEMA and (
                not self._shards or self._shards[0].shape[1] == features.shape[1]
            )
        except FileNotFoundError:
            return  # another process dropped it
        except (SafetensorError, OSError, ValueError):
            sound = False
        if not sound:
            self._progress.warn(f"Damaged feature cache file {path} is dropped; its images are encoded again.")
            with suppress(OSError):  # where it cannot be removed it is dropped for this process only
                path.unlink()
            return
        self._remember(table, features)

    def _remember(self, table: Tensor, features: Tensor) -> None:
        shard = len(self._shards)
        self._shards.append(features)
        raw = table.numpy().tobytes()
        for place in range(len(table)):
            self._places[raw[place * KEY_BYTES : (place + 1) * KEY_BYTES]] = (shard, place)


def _fit(table: Tensor, features: Tensor) -> bool:
    """Whether keys (n, KEY_BYTES) and features (n, F) have the types and shapes that `add` writes."""
    keys = table.dtype == torch.uint8 and table.dim() == 2 and table.shape[1] == KEY_BYTES
    return keys and features.dtype == torch.float32 and features.dim() == 2 and len(features) == len(table)


def _checksum(table: Tensor, features: Tensor) -> str:
    digest = hashlib.sha256(table.numpy().data)
    digest.update(features.contiguous().numpy().data)
    return digest.hexdigest()
