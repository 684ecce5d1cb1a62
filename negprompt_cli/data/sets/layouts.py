"""Recognise the layout of a folder of images, and list it lazily.

Supported layouts are class folders, with or without train/ and val/ (or test/) above them; a flat val/ with labels in a file
(`flatlabels`); and a flat folder. A folder `images/` or ImageNet's `ILSVRC/Data/CLS-LOC` above the class folders is skipped.
`os.scandir` lists files, and their names decide what they are (`filekinds`). No file is opened, and one class is listed at a
time, so memory does not grow with the number of images. The order is by code point on every file system.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from negprompt_cli.data.sets.filekinds import LeftOut, Reason, is_folder, is_image_name, reason_for
from negprompt_cli.data.sets.flatlabels import FLAT_LABEL_FILES, find_flat_labels
from negprompt_cli.data.sets.matching import Known
from negprompt_cli.data.sets.parts import Part, part_named
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.wording import some_of

Role = Literal["train", "eval", "ood"]
ROLES: Mapping[Role, str] = {"train": "training images", "eval": "evaluation images", "ood": "OOD images"}
"""How messages call the images of each role."""

_STEP_INTO = ("images", "ILSVRC/Data/CLS-LOC")
_EVALUATION: tuple[Part, ...] = ("val", "test")
_LOOK = 8
"""Number of class folders examined to find out whether they are folders of classes."""
_CONTAINERS = frozenset(
    {"all", "data", "dataset", "images", "image", "img", "imgs", "photos", "pictures", "jpegimages"}
)
"""Usual names of folders with images of many classes; hardly any class has such a name."""


@dataclass(frozen=True)
class Splits:
    """The folders of a data set's images: `train` and `evaluation`, or `whole` if there are no splits."""

    root: Path
    """The folder that relative paths start from."""
    layout: str
    """The name of the layout, for messages."""
    train: Path | None = None
    evaluation: Path | None = None
    whole: Path | None = None
    counterpart: str = ""
    """Name of the sibling split of a given split folder; if it exists, the folder is not split in half."""
    unused: tuple[str, ...] = ()
    """Folders beside the splits that are not splits."""


@dataclass(frozen=True)
class Source:
    """The images of one role, before classes are selected."""

    root: Path
    keys: tuple[str, ...]
    """The sorted class list, the same for every role; empty if there are no classes."""
    list_class: Callable[[str], list[str]]
    """Function that lists the images of a class as sorted POSIX texts below `root`; "" lists all if there are no classes."""
    layout: str
    names: dict[str, str]
    """Names that come with the data, by key; a class-name file replaces them."""
    halve: bool = False
    """Whether each class must be split in half, because there are no separate training and evaluation images."""
    decisions: tuple[Decision, ...] = ()
    """Decisions about these images that the user must be told."""
    named_by: Path | None = None
    """The class-name file that keys and `names` come from, if there is one."""
    no_classes: str = ""
    """Why there are no classes, if there are none."""
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    """Files that are not listed, by class key ("" for files outside classes); `list_class` adds those it finds."""


class Entries(NamedTuple):
    """The direct content of a folder: sorted names of its images and subfolders, and what is left out."""

    images: list[str]
    folders: list[str]
    left_out: LeftOut


def list_entries(folder: Path | str) -> Entries:
    """List the images and subfolders directly in `folder`; `filekinds` says what counts as an image.

    Raises:
        NegPromptError: the folder cannot be listed.
    """
    images, folders = [], []
    others: list[tuple[Reason, str, str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                inner = is_folder(entry)
                if not inner and is_image_name(entry.name):
                    images.append(entry.name)
                elif (reason := reason_for(entry.name, folder=inner)) is not None:
                    dead = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - texts are faster
                    others.append(("dead-link", "", entry.path) if dead else (*reason, entry.path))
                else:
                    folders.append(entry.name)
    except OSError as error:
        raise NegPromptError(f"Cannot list {folder}: {error.strerror or error}.") from error
    return Entries(sorted(images), sorted(folders), _counted(others, images))


def _counted(others: Sequence[tuple[Reason, str, str]], images: Sequence[str]) -> LeftOut:
    """Count the files left out of a folder, given as (reason, kind, path). A raw file beside its JPEG counts as a twin."""
    left_out = LeftOut()
    stems: set[str] = set()
    if any(reason == "unreadable" for reason, _, _ in others):
        stems = {name[: name.rfind(".")].casefold() for name in images}
    for reason, what, path in others:
        twin = reason == "unreadable" and Path(path).stem.casefold() in stems
        left_out.add("twin" if twin else reason, what, path)
    return left_out


def each_image(folder: str, left_out: LeftOut, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield all images at any depth below `folder`: those directly in it, then those of each subfolder, sorted by name.

    Args:
        folder: the folder to search.
        left_out: counts what is not an image.
        prefix: text added before every path, which is relative to the folder.
        above: real paths of the folders above it.

    Raises:
        NegPromptError: a folder cannot be listed.
    """
    images, folders, others = list_entries(folder)
    left_out.update(others)
    yield from (prefix + name for name in images)
    if not folders:
        return
    above = (*above, os.path.realpath(folder) + "/")
    for name in folders:
        inner = f"{folder}/{name}"
        real = os.path.realpath(inner) + "/"
        if not any(path.startswith(real) for path in above):  # Links back to a folder above would never end.
            yield from each_image(inner, left_out, f"{prefix}{name}/", above)


def list_images(folder: Path, left_out: LeftOut, *, prefix: str = "") -> list[str]:
    """List all images of `each_image`, sorted as whole texts; arguments and errors as there."""
    return sorted(each_image(str(folder), left_out, prefix))


def found_instead(left_out: LeftOut) -> str:
    """Return sentences, with a space before them, about the files that were found instead of images."""
    left = left_out.text(beside=True)
    found = [f"Found instead: {left}."] if left else []
    return " ".join(["", *found, *left_out.misnamed(), "Images are recognised by their suffix, such as .jpg or .png."])


def has_images(folder: Path) -> bool:
    """Whether there is an image at any depth below `folder`; the search stops at the first one."""
    return next(each_image(str(folder), LeftOut()), None) is not None


def step_into(folder: Path) -> Path:
    """Skip folders that are only between a data set's folder and its class folders."""
    for step in _STEP_INTO:
        inner = folder / step
        if inner.is_dir() and not list_entries(folder).images:
            return step_into(inner)
    return folder


def find_splits(given: Path) -> Splits:
    """Find train/ and val/ (or else test/) in folder `given`, or recognise `given` as one of them.

    Folders with these names are splits if there is nothing else beside them or if one of them has subfolders. Otherwise they
    are classes (a "train" is also a vehicle). If `given` is itself a train/ with a val/ beside it, or the reverse, it is
    used as that split and not split in half.
    """
    base = step_into(given)
    named = _split_folders(base)
    if named:
        train = named.get("train")
        # A val/ that is a link to train/ has no held-out images.
        evaluation = next(
            (named[part] for part in _EVALUATION if part in named and not (train and train.samefile(named[part]))), None
        )
        unused = tuple(name for name in list_entries(base).folders if base / name not in (train, evaluation))
        return Splits(root=base, layout="", train=train, evaluation=evaluation, unused=unused)
    part = part_named(given.absolute().name)
    parent = given.absolute().parent
    beside = _split_folders(parent) if part and os.access(parent, os.R_OK) else {}
    if part == "train" and any(other in beside for other in _EVALUATION):
        return Splits(root=base, layout="", train=base, counterpart="val")
    if part in _EVALUATION and "train" in beside:
        return Splits(root=base, layout="", evaluation=base, counterpart="train")
    return Splits(root=base, layout="", whole=base)


def _split_folders(base: Path) -> dict[Part, Path]:
    """Return the split folders in `base` by part, in any spelling; of several spellings of a part, the shortest."""
    folders = list_entries(base).folders
    named: dict[Part, Path] = {}
    for name in sorted(folders, key=len):
        if (part := part_named(name)) is not None:
            named.setdefault(part, base / name)
    alone = all(part_named(name) for name in folders)
    return named if named and (alone or any(list_entries(path).folders for path in named.values())) else {}


def open_splits(
    splits: Splits, role: Role, *, keys: Sequence[str] = (), label_folders: Sequence[Path] = (), halve: bool = True
) -> Source:
    """Make the source of `role` from the folders in `splits`.

    Role "train" uses train/, "eval" uses val/ or else test/. If one of the two is missing (or there are no splits), the
    images are split in half. Role "ood" uses val/ or test/ if they exist, otherwise all images.

    Args:
        splits: the folders.
        role: the use of the images.
        keys: the class list, if it is known beforehand; otherwise it consists of the class folders of all splits.
        label_folders: more folders that may have the labels of a flat evaluation folder.
        halve: whether one folder may be split in half for training and evaluation.

    Raises:
        UsageError: there is no folder for the role, it has no images, or labels are missing but the role needs them.
    """
    if role == "train":
        chosen, halved = splits.train or splits.whole, splits.evaluation is None
    else:
        chosen = splits.evaluation or splits.train or splits.whole
        halved = splits.evaluation is None and role == "eval"
    halved = halved and not (splits.counterpart and role == "train")
    if chosen is None or (halved and (splits.counterpart or not halve)):
        wanted = "train/ to train on" if role == "train" else "val/ or test/ to evaluate on"
        beside = f" Such a folder is beside this one, so give {splits.root.parent}." if splits.counterpart else ""
        raise UsageError(f"{splits.root} has no {wanted}.{beside}")
    folder = step_into(chosen)
    images, folders, others = list_entries(folder)
    more: list[Decision] = []
    facts: dict[str, Any]
    if folders and not (images and not any(has_images(folder / name) for name in folders)):
        source = _class_folders(splits, folder, tuple(folders), tuple(keys))
        if images:
            said = f"{len(images)} images directly in {folder} are left out, because they belong to no class"
            facts = {"folder": str(folder), "files": len(images), "reason": "no class"}
            more.append(Decision("files-left-out", said, facts))
    elif images:
        source = _flat(splits, folder, images, role, tuple(keys), label_folders)
    else:
        raise UsageError(f"No images in {folder}: it has no class folders and no image files.{found_instead(others)}")
    if splits.unused:
        text = f"Folders beside the splits of {splits.root} are not used: {some_of(splits.unused)}."
        facts = {"folder": str(splits.root), "folders": list(splits.unused), "reason": "not a split in use"}
        more.append(Decision("files-left-out", text, facts))
    text = "" if role == "ood" else _deeper_classes(folder, source.keys) or _lone_container(source.keys)
    if text:
        facts = {"folder": str(folder), "classes": list(source.keys[:1])}
        more.append(Decision("layout", text, facts, warning=True))
    source.left_out[""] = others
    return replace(
        source,
        halve=halved and bool(source.keys),
        layout=f"{splits.layout}{source.layout}",
        decisions=(*source.decisions, *more),
    )


def _class_folders(splits: Splits, folder: Path, folders: tuple[str, ...], known: tuple[str, ...]) -> Source:
    prefix = "" if folder == splits.root else folder.relative_to(splits.root).as_posix() + "/"
    keys = known
    if not keys:
        merged: list[str] = []
        others = [list_entries(path).folders for path in (splits.train, splits.evaluation) if path]
        for names in [*others, list(folders)]:
            merged += [name for name, key in _same_classes(names, merged).items() if key is None]
        keys = tuple(sorted(set(merged) - {"images"}))
    same = _same_classes(folders, keys)
    unknown = sorted(name for name in folders if same[name] is None)
    said = f"{len(unknown)} folders in {folder} are not classes of this data set: {some_of(unknown)}"
    left = Decision("classes-left-out", said, {"folder": str(folder), "classes": unknown, "reason": "not in the set"})
    folder_of = {key: name for name, key in same.items() if key is not None}
    twice = _linked_twice(folder, list(folder_of.values()))
    text = f"Class folders in {folder} are links to the same folder, so its images have two classes: {some_of(twice)}."
    linked = Decision("layout", text, {"folder": str(folder), "links": twice}, warning=True)
    renamed = sorted(name for key, name in folder_of.items() if name != key)
    text = f"{len(renamed)} folders in {folder} were recognised as another spelling of a class: {some_of(renamed)}"
    spelled = Decision("layout", text, {"folder": str(folder), "spellings": {n: same[n] for n in renamed}})
    left_out: dict[str, LeftOut] = {}

    def list_class(key: str) -> list[str]:
        others = left_out[key] = LeftOut()
        name = folder_of.get(key)
        return [] if name is None else list_images(folder / name, others, prefix=f"{prefix}{name}/")

    return Source(
        splits.root,
        keys,
        list_class,
        f"class folders in {folder}",
        names={},
        decisions=(*([left] if unknown else []), *([spelled] if renamed else []), *([linked] if twice else [])),
        left_out=left_out,
    )


def _linked_twice(folder: Path, names: Sequence[str]) -> list[str]:
    """Return 'link = other' for each folder that is a link to another of the folders, or to the same target as another."""
    linked = [name for name in names if (folder / name).is_symlink()]
    real = {os.path.realpath(folder / name): name for name in names if name not in linked} if linked else {}
    found = []
    for name in linked:
        other = real.setdefault(os.path.realpath(folder / name), name)
        found += [f"{name} = {other}"] if other != name else []
    return found


def _same_classes(folders: Sequence[str], keys: Sequence[str]) -> dict[str, str | None]:
    """Return for each folder its class among `keys`, matched by `matching`; None if there is none.

    A class has one folder: the one with its exact name, or else the first with another spelling (café in NFC and NFD).
    """
    exact = set(folders) & set(keys)
    known = Known(key for key in keys if key not in exact)
    same: dict[str, str | None] = {}
    taken: set[str] = set()
    for name in folders:
        key = name if name in exact else known.find(name)
        same[name] = key if key is not None and key not in taken else None
        taken.update([key] if key else [])
    return same


def _deeper_classes(folder: Path, keys: Sequence[str]) -> str:
    """Return a warning if class folders look like folders of classes or of splits, else nothing.

    They do if each of the first ones has no images but several folders, directly or below single folders.
    """
    found: list[list[Path]] = []
    for inner in (folder / key for key in keys[:_LOOK]):
        if not inner.is_dir():
            continue
        images, folders, _ = list_entries(inner)
        for _ in range(_LOOK):  # The number of steps is limited, because a link may lead back.
            if images or len(folders) != 1:
                break
            inner = inner / folders[0]
            images, folders, _ = list_entries(inner)
        if images or len(folders) < 2:
            return ""
        found.append([inner / name for name in folders])
    if not found:
        return ""
    below = [path for paths in found for path in paths]
    shown = some_of([path.relative_to(folder).as_posix() for path in below], 3)
    if all(part_named(path.name) for path in below):
        return (
            f"Each class folder in {folder} has its own splits ({shown}), which are not distinguished. Put the classes into "
            "train/ and val/, or give a list of the images."
        )
    return (
        f"The classes are the folders in {folder} ({some_of(list(keys), 3)}), but their images are in subfolders ({shown}). "
        f"If the subfolders are the classes, give {below[0].parent} or a folder that contains all of them."
    )


def _lone_container(keys: Sequence[str]) -> str:
    """Return a warning if the only class has a usual name of folders with many classes, else nothing."""
    if len(keys) != 1 or (keys[0].casefold() not in _CONTAINERS and part_named(keys[0]) is None):
        return ""
    return (
        f"The only class is called {keys[0]!r}. If its images are of several classes, put each into a separate folder, "
        "or give a list that names their classes."
    )


def _flat(
    splits: Splits, folder: Path, images: list[str], role: Role, known: tuple[str, ...], label_folders: Sequence[Path]
) -> Source:
    prefix = "" if folder == splits.root else folder.relative_to(splits.root).as_posix() + "/"
    searched = list(dict.fromkeys([folder, *list(folder.parents)[:5], *label_folders]))
    try:
        found = find_flat_labels(images, searched)
    except UsageError:
        if role != "ood":
            raise
        found = None  # OOD images need no labels.
    if found is None:
        why = f"{folder} is a flat folder and no label file was found: none of {', '.join(FLAT_LABEL_FILES)} in "
        why += ", ".join(str(path) for path in searched)
        if role != "ood":
            raise UsageError(f"{why}. Put the images into class folders, add one of these files, or give an imglist.")
        paths = [prefix + name for name in images]
        return Source(splits.root, (), lambda _: paths, f"flat folder {folder}", names={}, no_classes=why)
    labels, file = found
    by_class: dict[str, list[str]] = {}
    for name in images:
        if name in labels:
            by_class.setdefault(labels[name], []).append(prefix + name)
    keys = known or tuple(sorted({*by_class, *(list_entries(splits.train).folders if splits.train else ())}))
    missing = [name for name in images if name not in labels]
    said = f"{len(missing)} images in {folder} are left out, because {file} has no label for them ({some_of(missing)})"
    left = Decision("files-left-out", said, {"folder": str(folder), "files": len(missing), "reason": "no label"})
    layout = f"flat folder {folder} with labels from {file}"
    return Source(
        splits.root, keys, lambda key: by_class.get(key, []), layout, names={}, decisions=(left,) if missing else ()
    )
