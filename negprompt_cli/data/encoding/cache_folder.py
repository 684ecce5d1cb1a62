"""Find, list and clear the cache. This module imports no torch, so that listing is fast."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from negprompt_cli.errors import NegPromptError

VARIABLE = "NEGPROMPT_CACHE"


@dataclass(frozen=True)
class StoreInfo:
    """One store of image features: its folder, its model, and its size on disk."""

    folder: Path
    model: str
    precision: str
    files: int
    size: int


def cache_folder() -> Path:
    """Return the folder of the cache: NEGPROMPT_CACHE, else the user's cache folder (depends on XDG_CACHE_HOME)."""
    chosen = os.environ.get(VARIABLE)
    return Path(os.path.expanduser(chosen)) if chosen else user_cache_path("negprompt", appauthor=False)  # noqa: PTH111 - see `spec`


def towers_folder() -> Path:
    """Return the folder of image encoders that were exported for onnxruntime."""
    return cache_folder() / "towers"


def models_folder() -> Path:
    """The folder of what is known of models without loading them."""
    return cache_folder() / "models"


def towers_size() -> int:
    """Return the total bytes of exported image encoders."""
    return sum(size for path in towers_folder().glob("*.onnx") if (size := _size(path)) is not None)


def list_stores() -> list[StoreInfo]:
    """List the stores of image features, by folder name."""
    stores = []
    for folder in sorted(p for p in (cache_folder() / "features").glob("*") if p.is_dir()):
        sizes = [size for path in folder.glob("*.safetensors") if (size := _size(path)) is not None]
        try:
            known = json.loads((folder / "store.json").read_text("utf-8"))
            model, precision = str(known["model"]), str(known["precision"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            model, precision = "unknown", "unknown"
        stores.append(StoreInfo(folder, model, precision, len(sizes), sum(sizes)))
    return stores


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or None if another process has just removed it."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def clear_cache() -> int:
    """Remove all cached features and exported image encoders; return the bytes freed.

    Raises:
        NegPromptError: a file cannot be removed.
    """
    freed = sum(store.size for store in list_stores()) + towers_size()
    for folder in filter(Path.exists, (cache_folder() / "features", towers_folder(), models_folder())):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise NegPromptError(f"Cannot clear the cache at {folder}: {error.strerror or error}.") from error
    return freed
