"""Recognising how a folder of images is laid out, and listing it lazily.

Recognised: class folders, with or without train/ and val/ (or test/) above them; a flat val/ whose labels are in a
file (`flatlabels`); a flat folder. An `images/` folder or ImageNet's `ILSVRC/Data/CLS-LOC` in between is stepped
into. Files are found with `os.scandir` and told by their names (`filekinds`); none is opened, and one class is listed at a
time, so memory does not grow with the number of images. The order is by code point, whatever the file system's.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from negprompt_cli.data.sets.filekinds import LeftOut, Reason, is_folder, is_image_name, reason_for
from negprompt_cli.data.sets.flatlabels import FLAT_LABEL_FILES, find_flat_labels
from negprompt_cli.data.sets.matching import Known
from negprompt_cli.data.sets.parts import Part, part_named
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.wording import some_of

Role = Literal["train", "eval", "ood"]

_STEP_INTO = ("images", "ILSVRC/Data/CLS-LOC")
_EVALUATION: tuple[Part, ...] = ("val", "test")
_LOOK = 8
"""How many class folders are looked into to find whether they are folders of classes."""
_CONTAINERS = frozenset(
    {"all", "data", "dataset", "images", "image", "img", "imgs", "photos", "pictures", "jpegimages"}
)
"""Names that folders of images of many classes have, as hardly any class does."""


@dataclass(frozen=True)
class Splits:
    """Where a data set keeps its images: `train` and `evaluation` folders, or `whole` where there are no splits."""

    root: Path
    """What relative paths start from."""
    layout: str
    """Which layout this is, for people."""
    train: Path | None = None
    evaluation: Path | None = None
    whole: Path | None = None
    counterpart: str = ""
    """The split beside the only one given, where there is one: it is not part of the set, but keeps it from halving."""
    unused: tuple[str, ...] = ()
    """Folders beside the splits that are none of them."""


@dataclass(frozen=True)
class Source:
    """Where the images of one role are, before classes are selected."""

    root: Path
    keys: tuple[str, ...]
    """The sorted class list, the same for every role; empty where there are no classes."""
    list_class: Callable[[str], list[str]]
    """Sorted POSIX texts below `root` of one class; everything for "" where there are no classes."""
    layout: str
    names: dict[str, str]
    """Names that come with the data, by key; a class-name file wins over them."""
    halve: bool = False
    """No separate training and evaluation images: each class is to be split in two."""
    decisions: tuple[Decision, ...] = ()
    """What was decided about these images; whoever asks for them is told."""
    named_by: Path | None = None
    """The class-name file that keys and `names` come from already, if they do."""
    no_classes: str = ""
    """Why there are no classes, where there are none."""
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    """What is not listed, by class key, "" for what is in no class; `list_class` adds what it comes across."""


class Entries(NamedTuple):
    """What is directly in a folder: sorted names of its images and subfolders, and what is left out."""

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
    """Count what is left out of a folder: reason, what it is, and path. A raw file beside its JPEG is that image's twin."""
    left_out = LeftOut()
    stems: set[str] = set()
    if any(reason == "unreadable" for reason, _, _ in others):
        stems = {name[: name.rfind(".")].casefold() for name in images}
    for reason, what, path in others:
        twin = reason == "unreadable" and Path(path).stem.casefold() in stems
        left_out.add("twin" if twin else reason, what, path)
    return left_out


def _walk(folder: str, prefix: str, above: tuple[str, ...], left_out: LeftOut) -> Iterator[str]:
    images, folders, others = list_entries(folder)
    left_out.update(others)
    yield from (prefix + name for name in images)
    if not folders:
        return
    above = (*above, os.path.realpath(folder) + "/")
    for name in folders:
        inner = f"{folder}/{name}"
        real = os.path.realpath(inner) + "/"
        if not any(path.startswith(real) for path in above):  # a link back to a folder above would never end
            yield from _walk(inner, f"{prefix}{name}/", above, left_out)


def list_images(folder: Path, left_out: LeftOut, *, prefix: str = "") -> list[str]:
    """All images at any depth below `folder`: sorted POSIX texts relative to it, with `prefix` put before.

    Args:
        folder: where to look.
        left_out: what is no image is counted here.
        prefix: put before every text.

    Raises:
        NegPromptError: a folder that cannot be listed.
    """
    return sorted(_walk(str(folder), prefix, (), left_out))


def found_instead(left_out: LeftOut) -> str:
    """What was found where images were looked for, as sentences with a space before them."""
    told = left_out.told(beside=True)
    found = [f"Found instead: {told}."] if told else []
    return " ".join(["", *found, *left_out.misnamed(), "Images are told by their suffix, such as .jpg or .png."])


def has_images(folder: Path) -> bool:
    """Whether there is an image at any depth below `folder`; stops at the first."""
    return next(_walk(str(folder), "", (), LeftOut()), None) is not None


def step_into(folder: Path) -> Path:
    """Follow the folders that are only between a data set's name and its class folders."""
    for step in _STEP_INTO:
        inner = folder / step
        if inner.is_dir() and not list_entries(folder).images:
            return step_into(inner)
    return folder


def find_splits(given: Path) -> Splits:
    """Find train/ and val/ (or else test/) in folder `given`, or that `given` itself is one of them.

    Folders of those names are splits if nothing else is beside them or one of them holds folders of its own;
    otherwise they are classes among others (a "train" is also a vehicle). A `given` folder that is used as train/
    beside a val/, or the other way round, is that split and not a set to be halved.
    """
    base = step_into(given)
    named = _split_folders(base)
    if named:
        train = named.get("train")
        # A val/ that is a link to train/ holds nothing out.
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
    """The split folders in `base` by part, whatever their spelling; the shortest of several spellings of one part."""
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

    role "train" takes train/, "eval" takes val/ or else test/; where one of the two is missing (or there are no
    splits) the images are to be halved. role "ood" takes val/ or test/ where they are, otherwise everything.

    Args:
        splits: the folders.
        role: what the images are for.
        keys: the class list where it is known beforehand; otherwise the class folders of all splits together.
        label_folders: more folders where the labels of a flat evaluation folder may be.
        halve: whether one folder may be split in two for training and evaluation.

    Raises:
        UsageError: no folder for the role, no images in it, or no labels where the role needs them.
    """
    if role == "train":
        chosen, halved = splits.train or splits.whole, splits.evaluation is None
    else:
        chosen = splits.evaluation or splits.train or splits.whole
        halved = splits.evaluation is None and role == "eval"
    halved = halved and not (splits.counterpart and role == "train")
    if chosen is None or (halved and (splits.counterpart or not halve)):
        wanted = "train/ to train on" if role == "train" else "val/ or test/ to evaluate on"
        beside = f" It is beside this folder: give {splits.root.parent}." if splits.counterpart else ""
        raise UsageError(f"{splits.root} has no {wanted}.{beside}")
    folder = step_into(chosen)
    images, folders, others = list_entries(folder)
    if folders and not (images and not any(has_images(folder / name) for name in folders)):
        source = _class_folders(splits, folder, tuple(folders), tuple(keys))
        if images:
            said = f"{len(images)} images directly in {folder} belong to no class: left out"
            facts = {"folder": str(folder), "files": len(images), "reason": "no class"}
            source = replace(source, decisions=(*source.decisions, Decision("files-left-out", said, facts)))
    elif images:
        source = _flat(splits, folder, images, role, tuple(keys), label_folders)
    else:
        raise UsageError(f"No images in {folder}: no class folders and no image files.{found_instead(others)}")
    if splits.unused:
        text = f"Folders beside the splits of {splits.root} are not used: {some_of(splits.unused)}."
        facts = {"folder": str(splits.root), "folders": list(splits.unused), "reason": "not a split in use"}
        source = replace(source, decisions=(*source.decisions, Decision("files-left-out", text, facts)))
    text = "" if role == "ood" else _deeper_classes(folder, source.keys) or _lone_container(source.keys)
    if text:
        found = Decision("layout", text, {"folder": str(folder), "classes": list(source.keys[:1])}, warning=True)
        source = replace(source, decisions=(*source.decisions, found))
    source.left_out[""] = others
    return replace(source, halve=halved and bool(source.keys), layout=f"{splits.layout}{source.layout}")


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
    said = f"{len(unknown)} folders in {folder} are no class of this data set: {some_of(unknown)}"
    left = Decision("classes-left-out", said, {"folder": str(folder), "classes": unknown, "reason": "not in the set"})
    folder_of = {key: name for name, key in same.items() if key is not None}
    twice = _linked_twice(folder, list(folder_of.values()))
    text = (
        f"Class folders in {folder} that are the same folder by a link give their images two classes: {some_of(twice)}."
    )
    linked = Decision("layout", text, {"folder": str(folder), "links": twice}, warning=True)
    renamed = sorted(name for key, name in folder_of.items() if name != key)
    text = f"{len(renamed)} folders in {folder} are the same class by another spelling: {some_of(renamed)}"
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
    """Those of the folders that are links to another one of them, or to what another one links to: 'link = other'."""
    linked = [name for name in names if (folder / name).is_symlink()]
    real = {os.path.realpath(folder / name): name for name in names if name not in linked} if linked else {}
    found = []
    for name in linked:
        other = real.setdefault(os.path.realpath(folder / name), name)
        found += [f"{name} = {other}"] if other != name else []
    return found


def _same_classes(folders: Sequence[str], keys: Sequence[str]) -> dict[str, str | None]:
    """For each folder the class of `keys` that it has the images of, told by `matching`; None where there is none.

    A class has one folder: that of its very name, or else the first that is spelled another way (café in NFC and NFD).
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
    """What to say where class folders look like folders of classes, or of splits; empty where they do not.

    They do where each of the first ones has no images itself, but several folders, perhaps below folders that are alone.
    """
    found: list[list[Path]] = []
    for inner in (folder / key for key in keys[:_LOOK]):
        if not inner.is_dir():
            continue
        images, folders, _ = list_entries(inner)
        for _ in range(_LOOK):  # a bound, because a link may lead back
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
            f"The class folders in {folder} have splits of their own ({shown}), which are not told apart. Put the classes "
            "into train/ and val/, or give a list of the images."
        )
    return (
        f"The classes are the folders in {folder} ({some_of(list(keys), 3)}), but their images are in folders below them "
        f"({shown}). If those are the classes, give {below[0].parent} or a folder that has all of them."
    )


def _lone_container(keys: Sequence[str]) -> str:
    """What to say where the only class has the name of a folder of many; empty where it has not, or there are more."""
    if len(keys) != 1 or (keys[0].casefold() not in _CONTAINERS and part_named(keys[0]) is None):
        return ""
    return (
        f"The only class is called {keys[0]!r}. If its images are of several classes, put each class into a folder of its "
        "own, or give a list that names their classes."
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
        found = None  # OOD images need no labels
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
    said = f"{len(missing)} images in {folder} have no label in {file}: left out ({some_of(missing)})"
    left = Decision("files-left-out", said, {"folder": str(folder), "files": len(missing), "reason": "no label"})
    layout = f"flat folder {folder} with labels from {file}"
    return Source(
        splits.root, keys, lambda key: by_class.get(key, []), layout, names={}, decisions=(left,) if missing else ()
    )
