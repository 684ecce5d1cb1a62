"""Images inside container files: tar files, Parquet files, Hugging Face datasets, and sets that torchvision reads.

Such an image has a path below its container, as if that were a folder. Lists, rows, caches and other processes can
therefore treat it like a file:

    shards/000.tar/n01440764/1.jpg      a member of a tar file
    data/train.parquet/000012           a row of a Parquet file, counted from 0
    hf:beans/test/000012                a row of a split of a Hugging Face dataset
    root/CIFAR10.torchvision/eval/12    an image of a set that torchvision stores in one file (`torchsets`)

Nothing is unpacked: each process reads images directly from their container.
"""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from negprompt_cli.data.sets import hub_images, parquet_images, tar_images, torchsets
from negprompt_cli.data.sets.filekinds import LeftOut, is_folder, is_image_name, reason_for
from negprompt_cli.errors import UsageError

PACKED_SUFFIXES = (*tar_images.SUFFIXES, *parquet_images.SUFFIXES)
"""Suffixes of container files, in lower case."""
_INSIDE = re.compile(rf"(?:{'|'.join(map(re.escape, PACKED_SUFFIXES))})(?=/)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
MOST_FILES = 1_000_000
"""Largest number of files that a pattern with braces may name."""


@dataclass(frozen=True)
class _Place:
    """The place of an image: its container (a file, or a dataset and its split), and the path or row inside it."""

    holder: str
    inside: str
    split: str = ""


def is_item(path: Path) -> bool:
    """Whether a path names an image inside a container."""
    return _place(str(path)) is not None or torchsets.is_item(path)


def is_packed_file(path: Path) -> bool:
    """Whether a path is that of a container file, by its suffix."""
    return path.name.lower().endswith(PACKED_SUFFIXES) and path.is_file()


def item_exists(path: Path) -> bool:
    """Whether the container of an image exists. Only reading shows whether the image is in it."""
    return _place(str(path)) is not None or torchsets.item_exists(path)


def stored_in(path: Path) -> Path:
    """Return the file or folder on disk that contains an image: `path` itself, or its container.

    Raises:
        FileNotFoundError: the dataset does not exist.
    """
    place = _place(str(path))
    if place is None:
        return torchsets.stored_in(path)
    return hub_images.stored_in(place.holder, place.split) if place.split else Path(place.holder)


def container(path: Path) -> Path | None:
    """Return the tar or Parquet file that contains an image; None for an ordinary file, or if a library manages it."""
    place = _place(str(path))
    return None if place is None or place.split else Path(place.holder)


def container_size(path: Path) -> int:
    """Return the bytes of the tar or Parquet file that contains an image; 0 if a library manages it.

    Raises:
        OSError: the file does not exist any more.
    """
    file = container(path)
    return 0 if file is None else file.stat().st_size


def item_content(path: Path) -> tuple[bytes, str] | None:
    """Return the content of an image inside a container, and its file name if known; None for an ordinary file.

    Raises:
        OSError: the image is not in the container, or the container cannot be read.
    """
    place = _place(str(path))
    if place is None:
        return None
    if not place.split and not place.holder.lower().endswith(parquet_images.SUFFIXES):
        return tar_images.read(Path(place.holder), place.inside), place.inside
    if not re.fullmatch("[0-9]{1,18}", place.inside):
        raise OSError("rows are named by their numbers")
    row = int(place.inside)
    return (
        hub_images.read(place.holder, place.split, row) if place.split else parquet_images.read(Path(place.holder), row)
    )


def images_in(file: Path, left_out: LeftOut) -> Iterator[Path]:
    """Yield the images of a container file, in its order.

    Raises:
        UsageError: the file cannot be read.
    """
    if file.name.lower().endswith(parquet_images.SUFFIXES):
        yield from (file / row_name(row) for row in range(parquet_images.columns(file).rows))
    else:
        yield from (file / sample.name for sample in tar_images.samples(file, left_out, labels=False))


def images_of_dataset(text: str) -> Iterator[Path]:
    """Yield the images of `hf:NAME[:SPLIT]`, split by split.

    Raises:
        UsageError: there is no such dataset, or the library is missing.
    """
    name, asked = hub_images.taken_apart(text)
    for split in [asked] if asked else hub_images.splits(name):
        yield from (
            Path(f"{hub_images.PREFIX}{name}") / split / row_name(row) for row in range(hub_images.rows(name, split))
        )


def row_name(row: int) -> str:
    """Return the name of a row in a path."""
    return f"{row:06d}"


def packed_files(folder: Path, *, deeper: int = 2) -> list[Path]:
    """Return the sorted container files of a folder, if it has no image files and no other folders.

    The files may be in the only subfolder, such as `data/` in a clone of a dataset of the hub. If there are tar files,
    Parquet files are left out, because they then have data about the images.

    Args:
        folder: the folder.
        deeper: number of levels of single subfolders to search.
    """
    found: list[Path] = []
    inside: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                # The first image or second subfolder ends the search, because a folder may have a million images.
                if is_image_name(entry.name):
                    return []
                if is_folder(entry):
                    inside += [folder / entry.name] if reason_for(entry.name, folder=True) is None else []
                    if (found and inside) or len(inside) > 1:
                        return []
                elif not entry.name.startswith(".") and entry.name.lower().endswith(PACKED_SUFFIXES):
                    found.append(folder / entry.name)
    except OSError:  # The code that lists the folder reports the error.
        return []
    if inside:
        return packed_files(inside[0], deeper=deeper - 1) if deeper and not found else []
    return sorted(path for path in found if path.name.lower().endswith(tar_images.SUFFIXES)) or sorted(found)


def expanded(pattern: str) -> list[Path]:
    """Return the files that a pattern names, with braces for numbers or words and glob wildcards.

    Raises:
        UsageError: a file named by braces does not exist, or there are too many.
    """
    if not pattern.lower().endswith(PACKED_SUFFIXES):
        return []
    names = _unbraced(pattern)
    if any(mark in pattern for mark in "*?["):
        return [Path(name) for one in names for name in sorted(glob.glob(one, recursive=True))]  # noqa: PTH207
    missing = [name for name in names if not Path(name).is_file()]
    if missing and len(names) > 1:
        raise UsageError(
            f"{pattern} names {len(names)} files, but {len(missing)} do not exist, the first is {missing[0]}."
        )
    return [] if missing else [Path(name) for name in names]


def _unbraced(pattern: str) -> list[str]:
    parts = _BRACES.split(pattern)
    choices: list[list[str]] = []
    for part in parts[1::2]:
        found = _RANGE.fullmatch(part)
        if found is None:
            choices.append(part.split(","))
            continue
        first, last, width = int(found[1]), int(found[2]), len(found[1])
        if not 0 <= last - first < MOST_FILES:
            raise UsageError(f"{pattern}: {{{part}}} is not a range of at most {MOST_FILES} numbers.")
        choices.append([f"{number:0{width}d}" for number in range(first, last + 1)])
    made = []
    for chosen in product(*choices):
        made.append("".join(text for pair in zip(parts[::2], [*chosen, ""], strict=True) for text in pair))
        if len(made) > MOST_FILES:
            raise UsageError(f"{pattern} names more than {MOST_FILES} files.")
    return made


def _place(text: str) -> _Place | None:
    if text.startswith(hub_images.PREFIX):
        name, _, rest = text.removeprefix(hub_images.PREFIX).rpartition("/")
        name, _, split = name.rpartition("/")
        return _Place(name, rest, split) if name and split else None
    for match in _INSIDE.finditer(text):
        if os.path.isfile(text[: match.end()]):  # noqa: PTH113 - returns False for invalid paths
            return _Place(text[: match.end()], text[match.end() + 1 :])
    return None
