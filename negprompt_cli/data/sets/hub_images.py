"""Images of Hugging Face datasets, read row by row with the library `datasets` (extra `datasets`).

`hf:NAME` is a dataset of the hub, which the library downloads to its cache, or a local folder that `save_to_disk` wrote or
that the library can load. `hf:NAME:SPLIT` is one of its splits. The images are in the column of type Image (or else of
bytes) called image or img, else in the first such column. The classes are in the column of type ClassLabel, else in a column
with a name that image lists use for classes. The number -1 of a ClassLabel means no class, as in test sets whose labels are
not published.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from negprompt_cli.data.sets.columns import ImageColumns, class_columns
from negprompt_cli.data.sets.image_records import class_of_row
from negprompt_cli.data.sets.parquet_images import content
from negprompt_cli.data.sets.spec import user_path
from negprompt_cli.errors import UsageError

PREFIX = "hf:"
_SAVED = ("dataset_dict.json", "state.json")


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in _SAVED)


def taken_apart(text: str) -> tuple[str, str | None]:
    """Split `hf:NAME[:SPLIT]` into name and split (None if not given).

    Raises:
        UsageError: the name is missing.
    """
    name, colon, split = text.removeprefix(PREFIX).partition(":")
    name = (str(user_path(name)) if name.startswith("~") else name).rstrip("/") or name
    if not name or (colon and not split):
        raise UsageError(
            f"{text!r} does not name a dataset. Write hf:NAME or hf:NAME:SPLIT, for example hf:beans:test."
        )
    return name, split or None


def splits(name: str) -> tuple[str, ...]:
    """Return the splits of a dataset; one that was saved without splits has the split "train", as in the library.

    Raises:
        UsageError: the library is missing, or there is no such dataset.
    """
    return tuple(_loaded(name))


def rows(name: str, split: str) -> int:
    """Return the number of rows of a split.

    Raises:
        UsageError: as `splits`, or there is no such split or no column of images.
    """
    columns(name, split)
    return len(_split(name, split))


def classes(name: str, split: str) -> Iterator[tuple[int | None, str]]:
    """Yield the class of each row, by number or by name; numbers of a ClassLabel come with their names.

    Raises:
        UsageError: as `rows`.
    """
    found, column = _split(name, split), columns(name, split).label
    if column is None:
        yield from [(None, "")] * len(found)
        return
    names = getattr(found.features[column], "names", ())
    for value in found.select_columns([column])[column]:
        yield class_of_row(value, f"{PREFIX}{name}", names)


def columns(name: str, split: str) -> ImageColumns:
    """Return the columns that may have images and classes.

    Raises:
        UsageError: as `rows`.
    """
    kinds = _split(name, split).features
    types = {column: type(kind).__name__ for column, kind in kinds.items()}
    plain = {column: str(getattr(kind, "dtype", "")) for column, kind in kinds.items()}
    images = [column for column, kind in types.items() if kind == "Image"]
    images = images or [column for column, kind in plain.items() if kind in ("binary", "large_binary")]
    labels = [column for column, kind in types.items() if kind == "ClassLabel"]
    labels = labels or class_columns([c for c, kind in plain.items() if kind.endswith("string") or "int" in kind])
    if not images:
        listed = ", ".join(f"{column} ({kind})" for column, kind in types.items())
        raise UsageError(f"{PREFIX}{name} has no column of type Image. The columns of {split} are {listed or 'none'}.")
    return ImageColumns(f"{PREFIX}{name}", tuple(images), tuple(labels))


def read(name: str, split: str, row: int) -> tuple[bytes, str]:
    """Return the content of the image in a row, and the name of its file if known.

    Raises:
        OSError: there is no such row, or it has no image.
    """
    try:
        images = _images(name, split)
    except UsageError as error:
        raise OSError(str(error)) from error
    if not 0 <= row < len(images):
        raise OSError(f"the split has only {len(images)} rows")
    value = images[row]
    return content(next(iter(value.values())), Path())


def stored_in(name: str, split: str) -> Path:
    """Return the first file on disk that a split is read from.

    Raises:
        FileNotFoundError: the split is only in memory.
    """
    try:
        files = _split(name, split).cache_files
    except UsageError as error:
        raise FileNotFoundError(str(error)) from error
    if not files:
        raise FileNotFoundError(f"{name} is only in memory")
    return Path(files[0]["filename"])


def _split(name: str, split: str) -> Any:
    loaded = _loaded(name)
    if split not in loaded:
        raise UsageError(f"{PREFIX}{name} has no split {split!r}. It has {', '.join(loaded)}.")
    return loaded[split]


@lru_cache(maxsize=8)
def _images(name: str, split: str) -> Any:
    """Return the image column of a split, not decoded."""
    import datasets

    found, image = _split(name, split), columns(name, split).image
    return found.select_columns([image]).cast_column(image, datasets.Image(decode=False))


@lru_cache(maxsize=4)
def _loaded(name: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError:
        raise UsageError(
            f"{PREFIX}{name}: Hugging Face datasets need the library `datasets`. Run `pip install 'negprompt[datasets]'`."
        ) from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        found = datasets.load_from_disk(name) if is_saved(Path(name)) else datasets.load_dataset(name)
    except Exception as error:  # The library, the hub and the network raise errors of any type.
        if "Config name is missing" in str(error):
            raise UsageError(
                f"{PREFIX}{name} has several configurations: {', '.join(datasets.get_dataset_config_names(name))}. Save the "
                f'one you mean, and name its folder:\n  python -c "import datasets; datasets.load_dataset({name!r}, '
                "'CONFIGURATION').save_to_disk('FOLDER')\""
            ) from error
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(
            f"{PREFIX}{name} cannot be loaded ({type(error).__name__}: {reason[:300]}). Check the name, or give a local "
            "folder. Without a network connection the dataset must be in the library's cache."
        ) from error
    if isinstance(found, datasets.Dataset):
        return {str(found.split or "train"): found}
    return {str(split): data for split, data in found.items()}
