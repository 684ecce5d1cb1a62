"""Images inside files that hold many: tar files, Parquet files, Hugging Face datasets, sets that torchvision reads.

Such an image has a path below the file that holds it, as if that file were a folder, so that lists, rows,
caches and other processes need know nothing of it:

    shards/000.tar/n01440764/1.jpg      a member of a tar file
    data/train.parquet/000012           a row of a Parquet file, counted from 0
    hf:beans/test/000012                a row of a split of a Hugging Face dataset
    root/CIFAR10.torchvision/eval/12    an image that torchvision keeps with others (`torchsets`)

Nothing is unpacked: each process reads the images it is asked for from where they are.
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
"""Suffixes of files that hold images, in lower case."""
_INSIDE = re.compile(rf"(?:{'|'.join(map(re.escape, PACKED_SUFFIXES))})(?=/)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
MOST_FILES = 1_000_000
"""The largest number of files that a pattern in braces may name."""


@dataclass(frozen=True)
class _Place:
    """Where an image is: the file that holds it (or a dataset and its split), and which one of it."""

    holder: str
    inside: str
    split: str = ""


def is_item(path: Path) -> bool:
    """Whether a path names an image inside a file that holds many."""
    return _place(str(path)) is not None or torchsets.is_item(path)


def is_packed_file(path: Path) -> bool:
    """Whether a path is that of a file that holds images, by its suffix."""
    return path.name.lower().endswith(PACKED_SUFFIXES) and path.is_file()


def item_exists(path: Path) -> bool:
    """Whether the container file of an image exists. Whether the image is in it is found when it is read."""
    return _place(str(path)) is not None or torchsets.item_exists(path)


def stored_in(path: Path) -> Path:
    """The file or folder on disk that holds an image: `path` itself, or what it is inside of.

    Raises:
        FileNotFoundError: a dataset that is not there.
    """
    place = _place(str(path))
    if place is None:
        return torchsets.stored_in(path)
    return hub_images.stored_in(place.holder, place.split) if place.split else Path(place.holder)


def container_size(path: Path) -> int:
    """Bytes of the tar or Parquet file that an image is inside of; 0 where a library keeps it.

    Raises:
        OSError: the file is gone.
    """
    place = _place(str(path))
    return 0 if place is None or place.split else Path(place.holder).stat().st_size


def item_content(path: Path) -> tuple[bytes, str] | None:
    """The content of an image inside a file, and its own name as far as that is known; None for an ordinary file.

    Raises:
        OSError: it is not in there, or the file cannot be read.
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
    """The images in a file that holds many, in its order.

    Raises:
        UsageError: it cannot be read.
    """
    if file.name.lower().endswith(parquet_images.SUFFIXES):
        yield from (file / row_name(row) for row in range(parquet_images.columns(file).rows))
    else:
        yield from (file / sample.name for sample in tar_images.samples(file, left_out, labels=False))


def images_of_dataset(text: str) -> Iterator[Path]:
    """The images of `hf:NAME[:SPLIT]`, split by split.

    Raises:
        UsageError: there is no such dataset, or the library is missing.
    """
    name, asked = hub_images.taken_apart(text)
    for split in [asked] if asked else hub_images.splits(name):
        yield from (
            Path(f"{hub_images.PREFIX}{name}") / split / row_name(row) for row in range(hub_images.rows(name, split))
        )


def row_name(row: int) -> str:
    """How a row is named in a path."""
    return f"{row:06d}"


def packed_files(folder: Path, *, deeper: int = 2) -> list[Path]:
    """The files in a folder that hold images, where there is nothing else that may hold some; sorted.

    They may be in the only subfolder, as `data/` is in a clone of a dataset of the hub. Beside tar files, Parquet files hold
    facts about their images.

    Args:
        folder: the folder.
        deeper: through how many folders that are the only subfolder.
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
    except OSError:  # whoever lists the folder says what is wrong
        return []
    if inside:
        return packed_files(inside[0], deeper=deeper - 1) if deeper and not found else []
    return sorted(path for path in found if path.name.lower().endswith(tar_images.SUFFIXES)) or sorted(found)


def expanded(pattern: str) -> list[Path]:
    """The files that a pattern names: braces with numbers or words, and the wildcards of globs.

    Raises:
        UsageError: a file that braces name is not there, or there are too many.
    """
    if not pattern.lower().endswith(PACKED_SUFFIXES):
        return []
    names = _unbraced(pattern)
    if any(mark in pattern for mark in "*?["):
        return [Path(name) for one in names for name in sorted(glob.glob(one, recursive=True))]  # noqa: PTH207
    missing = [name for name in names if not Path(name).is_file()]
    if missing and len(names) > 1:
        raise UsageError(f"{pattern} names {len(names)} files, of which {len(missing)} are not there: {missing[0]}.")
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
            raise UsageError(f"{pattern}: {{{part}}} is no range of at most {MOST_FILES} numbers.")
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
        if os.path.isfile(text[: match.end()]):  # noqa: PTH113 - a text that can be no path is none
            return _Place(text[: match.end()], text[match.end() + 1 :])
    return None
