"""Data sets in the form in which torchvision stores them below the data root. Nothing is downloaded here.

torchvision provides labels, class names and (for CIFAR and SVHN) checksums. Some sets consist of image files, which are
used directly. Others are stored in one large file (CIFAR, SVHN, MNIST). Their images have paths that do not exist on disk,
such as `ROOT/CIFAR10.torchvision/eval/000012`; `images.open_rgb` reads them. The large file is loaded once per process.
EuroSAT has no official split and is an ordinary folder of class folders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from negprompt_cli.data.sets.classnames import words
from negprompt_cli.data.sets.layouts import Role, Source
from negprompt_cli.errors import NegPromptError, UsageError

if TYPE_CHECKING:
    from PIL import Image

SUFFIX = ".torchvision"
"""Suffix of the pseudo folder in the path of an image that is not a file."""


@dataclass(frozen=True)
class _Reader:
    """The arguments that select the two parts in a class of torchvision.datasets, and the file or folder it needs."""

    train: dict[str, Any]
    eval: dict[str, Any]
    needs: str
    files: str | None = None
    """Attribute with the image files, if there are any. torchvision has no public one."""
    labels: str = "targets"


_READERS = {
    "CIFAR10": _Reader({"train": True}, {"train": False}, "cifar-10-batches-py"),
    "CIFAR100": _Reader({"train": True}, {"train": False}, "cifar-100-python"),
    "SVHN": _Reader({"split": "train"}, {"split": "test"}, "{split}_32x32.mat", labels="labels"),
    "MNIST": _Reader({"train": True}, {"train": False}, "MNIST"),
    "Food101": _Reader({"split": "train"}, {"split": "test"}, "food-101", "_image_files", "_labels"),
    "OxfordIIITPet": _Reader({"split": "trainval"}, {"split": "test"}, "oxford-iiit-pet", "_images", "_labels"),
    "Flowers102": _Reader({"split": "train"}, {"split": "test"}, "flowers-102", "_image_files", "_labels"),
}

READABLE = tuple(_READERS)
"""The classes of torchvision.datasets that a catalogue may name."""


@lru_cache(maxsize=4)
def _dataset(dataset: str, root: Path, part: str) -> Any:
    import torchvision.datasets

    reader = _READERS[dataset]
    try:
        return getattr(torchvision.datasets, dataset)(root=str(root), download=False, **getattr(reader, part))
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"{dataset} in {root} cannot be read: {error}. Put all files of the set there.") from error


def _needs(dataset: str, part: str) -> str:
    reader = _READERS[dataset]
    return reader.needs.format(**getattr(reader, part))


def torchvision_source(dataset: str, role: Role, *, roots: Sequence[Path], tried: list[str]) -> Source | None:
    """Make the source of a torchvision set from the first of `roots` that has it; role "ood" uses the test part.

    Args:
        dataset: one of `READABLE`.
        role: the use of the images.
        roots: folders that may be torchvision's `root`.
        tried: the places that were tried are added to this list.

    Returns:
        The source, with the classes in torchvision's order, or None if no root has the set.

    Raises:
        UsageError: the set exists but is incomplete or damaged.
    """
    part = "train" if role == "train" else "eval"
    needed = _needs(dataset, part)
    tried += [f"{root / needed} (torchvision)" for root in roots]
    root = torchvision_root(dataset, role, roots)
    if root is None:
        return None
    data = _dataset(dataset, root, part)
    reader = _READERS[dataset]
    labels = np.asarray(_attribute(data, reader.labels), dtype=np.int64)
    keys = _class_names(data, dataset, role)
    number = {key: i for i, key in enumerate(keys)}
    files = None if reader.files is None else [Path(file) for file in _attribute(data, reader.files)]

    def list_class(key: str) -> list[str]:
        members = np.flatnonzero(labels == number[key]).tolist() if keys else range(len(labels))
        if files is None:
            return [f"{dataset}{SUFFIX}/{part}/{i:06d}" for i in members]
        return sorted(files[i].relative_to(root).as_posix() for i in members)

    where = "test part" if part == "eval" else "training part"
    layout = f"torchvision layout: {where} of {dataset} in {root}"
    why = "" if keys else f"torchvision does not name the classes of {dataset}"
    return Source(root, keys, list_class, layout, names={key: words(key) for key in keys}, no_classes=why)


def _class_names(data: Any, dataset: str, role: Role) -> tuple[str, ...]:
    """Return torchvision's class names. SVHN has none, but its classes are those of MNIST; old Flowers102 has none."""
    import torchvision

    if dataset == "SVHN":
        return tuple(torchvision.datasets.MNIST.classes)
    if hasattr(data, "classes"):
        return tuple(data.classes)
    if role == "ood":
        return ()
    version = torchvision.__version__
    raise UsageError(f"torchvision {version} does not name the classes of {dataset}. Update torchvision.")


def torchvision_root(dataset: str, role: Role, roots: Sequence[Path]) -> Path | None:
    """Return the first of `roots` that has the set, without loading it; None if no root has it."""
    needed = _needs(dataset, "train" if role == "train" else "eval")
    return next((root for root in roots if (root / needed).exists()), None)


def _attribute(data: Any, name: str) -> Any:
    value = getattr(data, name, None)
    if value is None:
        import torchvision

        kind = type(data).__name__
        raise NegPromptError(
            f"torchvision {torchvision.__version__} does not provide the {name} of {kind}. Use another version."
        )
    return value


def is_item(path: Path) -> bool:
    """Whether a path is that of an image inside a torchvision set."""
    # For most paths the text is enough, which takes a tenth of the time.
    return SUFFIX in str(path) and path.parent.parent.suffix == SUFFIX


def stored_in(path: Path) -> Path:
    """Return the file or folder on disk that contains an image: `path` itself, or what torchvision reads the set from."""
    if not is_item(path):
        return path
    return path.parents[2] / _needs(path.parent.parent.stem, path.parent.name)


def item_exists(path: Path) -> bool:
    """Whether a path is that of an image inside a torchvision set that exists."""
    dataset, part = path.parent.parent.stem, path.parent.name
    known = is_item(path) and dataset in _READERS and part in ("train", "eval")
    return known and (path.parents[2] / _needs(dataset, part)).exists()


def open_item(path: Path) -> "Image.Image":
    """Open an image inside a torchvision set.

    Raises:
        NegPromptError: the path has another form, the set cannot be read, or it has no such image.
    """
    dataset, part, number = path.parent.parent.stem, path.parent.name, path.name
    if dataset not in _READERS or part not in ("train", "eval") or not number.isdigit():
        raise NegPromptError(f"{path} is not an image of a torchvision set.")
    data = _dataset(dataset, path.parents[2], part)
    if int(number) >= len(data):
        raise NegPromptError(f"{path}: the set has only {len(data)} images.")
    image: Image.Image = data[int(number)][0]
    return image
