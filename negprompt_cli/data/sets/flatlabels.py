"""Labels of a flat evaluation folder, from well-known label files near it.

ImageNet's validation images are one folder of ILSVRC2012_val_00000001.JPEG and so on. Their classes are in Kaggle's
LOC_val_solution.csv, in the development kit, or in OpenOOD's imglists. Tiny-ImageNet is distributed with a
val_annotations.txt. Other sets have a list of images and classes in the folder or beside it, such as metadata.csv or
metadata.jsonl (Hugging Face's imagefolder) or labels.csv. Each reader returns {file name: class key}.
"""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from negprompt_cli.data.files.textfile import read_lines
from negprompt_cli.data.sets.classnames import imagenet_wnids
from negprompt_cli.data.sets.image_list import portable, read_image_list
from negprompt_cli.errors import UsageError

_INDEX = re.compile(r"[0-9]{1,18}")
_VAL_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.", re.IGNORECASE)


def _kaggle(path: Path, images: Sequence[str]) -> dict[str, str]:
    """Read LOC_val_solution.csv: `ImageId,PredictionString`; the first word of the prediction is the wnid."""
    stems = {name.rsplit(".", 1)[0]: name for name in images}
    try:
        lines = csv.reader(read_lines(path))
        rows = [row for row in lines if len(row) >= 2 and row[1].split()]
    except csv.Error as error:
        raise UsageError(f"{path} is not a CSV file of labels, as its name suggests: {error}.") from None
    return {stems[row[0]]: row[1].split()[0] for row in rows if row[0] in stems}


def _devkit(path: Path, images: Sequence[str]) -> dict[str, str]:
    """Read ILSVRC2012_validation_ground_truth.txt: line i is the ILSVRC2012_ID (1..1000) of image i.

    The ids are not in sorted-wnid order, so meta.mat of the same kit is needed to find the wnids.
    """
    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise UsageError(f"{path} needs meta.mat of the same development kit in the same folder, but it is missing.")
    from scipy.io import loadmat

    try:
        synsets = loadmat(str(meta), squeeze_me=True)["synsets"]
        wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        truth = [wnid_of[int(line)] for line in read_lines(path)]
    except UsageError:
        raise
    except Exception as error:  # The reader raises errors of any type for a damaged .mat file.
        reason = str(error) or type(error).__name__
        raise UsageError(f"{path} and {meta} are not valid files of the development kit ({reason}).") from error
    numbered = ((name, _VAL_NUMBER.match(name)) for name in images)
    numbers = {name: int(match[1]) for name, match in numbered if match}
    return {name: truth[number - 1] for name, number in numbers.items() if 1 <= number <= len(truth)}


def _imglist(path: Path, images: Sequence[str]) -> dict[str, str]:
    """Read OpenOOD's val_imagenet.txt (5,000 images) and test_imagenet.txt (45,000): class indices in wnid order."""
    wnids = imagenet_wnids()
    present = set(images)
    labels: dict[str, str] = {}
    for file in (path, path.with_name("val_imagenet.txt")):
        for line in read_lines(file) if file.is_file() else ():
            name, _, label = line.partition(" ")
            name = name.rsplit("/", 1)[-1]
            if name in present and _INDEX.fullmatch(label.strip()) and int(label) < len(wnids):
                labels[name] = wnids[int(label)]
    return labels


def _annotations(path: Path, images: Sequence[str]) -> dict[str, str]:
    """Read Tiny-ImageNet's val_annotations.txt: file name, wnid and a box, separated by TABs."""
    present = set(images)
    rows = (line.split("\t") for line in read_lines(path))
    return {row[0]: row[1] for row in rows if len(row) >= 2 and row[0] in present}


def _list(path: Path, images: Sequence[str], folder: Path) -> dict[str, str]:
    """Read a list in any form that names the classes; its paths are file names or paths of the images."""
    present = {name: name for name in images}
    present |= {name.rsplit(".", 1)[0]: name for name in images}
    labels: dict[str, str] = {}
    for line in read_image_list(path).lines:
        where = PurePosixPath(portable(line.path))
        leads = len(where.parts) == 1 or path.parent / where.parent == folder or where.parent.name == folder.name
        if not (line.name and leads and where.name in present):
            continue
        if labels.setdefault(present[where.name], line.name) != line.name:
            raise UsageError(f"{path} has several classes for {where.name!r}. Keep one.")
    return labels


_LISTS = ("metadata.csv", "metadata.jsonl", "labels.csv", "labels.json", "labels.txt")
"""Names of lists of images with classes, in a folder of images or beside it."""

_READERS: tuple[tuple[str, Callable[[Path, Sequence[str]], dict[str, str]]], ...] = (
    ("LOC_val_solution.csv", _kaggle),
    ("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", _devkit),
    ("devkit/data/ILSVRC2012_validation_ground_truth.txt", _devkit),
    ("data/ILSVRC2012_validation_ground_truth.txt", _devkit),
    ("ILSVRC2012_validation_ground_truth.txt", _devkit),
    ("benchmark_imglist/imagenet/test_imagenet.txt", _imglist),
    ("val_annotations.txt", _annotations),
)

FLAT_LABEL_FILES = (*dict.fromkeys(name for name, _ in _READERS), *_LISTS)
"""The label files to search for, relative to each folder."""


def find_flat_labels(images: Sequence[str], folders: Sequence[Path]) -> tuple[dict[str, str], Path] | None:
    """Find the labels of flat `images` in the first label file that has a label of any of them.

    Args:
        images: file names.
        folders: folders to search, in order; the first is that of the images.

    Returns:
        ({file name: class key}, the file), or None if no file was found.

    Raises:
        UsageError: a label file exists but cannot be used.
    """
    for path in [folder / name for folder in folders[:2] for name in _LISTS]:
        if path.is_file() and (labels := _list(path, images, folders[0])):
            return labels, path
    for folder in folders:
        for name, read in _READERS:
            path = folder / name
            if path.is_file() and (labels := read(path, images)):
                return labels, path
    return None
