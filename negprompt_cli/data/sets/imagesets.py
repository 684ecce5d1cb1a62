"""Resolve a data set SPEC to an image set: images, classes, and the layout that was recognised.

The steps: find the name or path (`sources`); apply the selector to the sorted class list; list the images of the selected
classes; split them in half if there are no separate training and evaluation images; name the classes; apply the limit. Image
files are not opened here (see `images`).
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from negprompt_cli.data.sets import sampling
from negprompt_cli.data.sets.catalogue import built_in, load_catalogue
from negprompt_cli.data.sets.classnames import ClassLabel, label_classes
from negprompt_cli.data.sets.filekinds import LeftOut, merged
from negprompt_cli.data.sets.imagepaths import ImagePaths
from negprompt_cli.data.sets.layouts import ROLES, Role, Source, found_instead
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.data.sets.naming import name_numbered, read_class_names
from negprompt_cli.data.sets.packed import container_size, is_item
from negprompt_cli.data.sets.sources import class_name_file, find_source
from negprompt_cli.data.sets.spec import Spec, parse_spec, select_indices, split_specs
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.wording import some_of

SPLIT_SEED = 0
"""Seed of the split in half. It is fixed, so that an evaluation with another seed never uses a training image."""


class EmptyClasses(UsageError):
    """Classes to be trained have no images; the message lists them."""


class NothingHeldOut(UsageError):
    """Every class has a single image, which training uses, so no image is held out."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one SPEC for one role; the order does not depend on the file system."""

    spec: str
    """The SPEC as typed."""
    name: str
    """Short name for run folders and result rows: the catalogue name or the last part of the path, and the selector."""
    paths: ImagePaths
    """n image files: a compact sequence of `Path`s."""
    labels: NDArray[np.int64]
    """(n,) indices into `classes`, -1 where unlabelled."""
    classes: tuple[ClassLabel, ...]
    """Sorted by key; empty for an unlabelled set."""
    root: Path
    """The folder that relative paths start from."""
    layout: str
    """The layout that was recognised, and its place."""
    decisions: tuple[Decision, ...]
    """Decisions about these images that the user must be told."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Counts, by reason, of files in the folders of the chosen classes that are not used."""
    halved: bool = False
    """Whether these images are one half of a set without separate training and evaluation images."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: NDArray[np.int64], *more: Decision) -> "ImageSet":
        """Return the images at `indices` (m,), with `more` decisions added."""
        decisions = (*self.decisions, *more)
        return replace(self, paths=self.paths.take(indices), labels=self.labels[indices], decisions=decisions)

    def few_shot(self, shots: int, *, seed: int) -> sampling.FewShot:
        """Draw `shots` images of every class; see `sampling.few_shot`."""
        keys = [c.key for c in self.classes]
        return sampling.few_shot(self.labels, list(self.paths.relatives()), class_keys=keys, shots=shots, seed=seed)

    def limited(self, count: int | None, *, seed: int) -> "ImageSet":
        """Return at most `count` images with balanced classes (`sampling.limit`); None returns the whole set."""
        if count is None or count >= len(self):
            return self
        keys = [c.key for c in self.classes]
        return self.take(
            sampling.limit(self.labels, list(self.paths.relatives()), class_keys=keys, count=count, seed=seed)
        )


def load_image_set(
    spec: Spec | str,
    *,
    role: Role,
    data_root: Path,
    seed: int = 0,
    limit: int | None = None,
    class_names: Path | None = None,
    catalogue: Path | None = None,
) -> ImageSet:
    """Resolve a SPEC to its images.

    Args:
        spec: a catalogue name or a path, with an optional `#selector` into the sorted class list; as typed, or parsed.
        role: "train" uses train/, "eval" uses val/ or else test/. Without these folders each class is split in half, in the
            same way for every seed. "ood" uses val/ or test/ if they exist, otherwise all images.
        data_root: folder of the catalogue's sets.
        seed: random seed of the choice for `limit`.
        limit: largest number of images; classes are kept as balanced as possible.
        class_names: file of class names (see `naming.read_class_names`); it replaces a classnames.txt in the data.
        catalogue: the user's own catalogue file.

    Raises:
        UsageError: the name is unknown; the data are not found (the message lists the places tried); there are no images;
            labels are missing but the role needs them; training classes have no images; or a selector or class-name file
            does not fit.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    sets = load_catalogue(data_root, catalogue)
    source, name, given = find_source(parsed, role, data_root, sets, class_names)
    folders = (given, source.root, data_root)
    if parsed.selector and not source.keys and source.no_classes:
        raise UsageError(f"'#{parsed.selector}' selects classes, but {source.no_classes}.")
    chosen = select_indices(parsed, source.keys, folders=folders)
    keys = [source.keys[i] for i in chosen] if source.keys else [""]
    paths, labels, counts = _list(source, keys, role)
    left_out = merged(source.left_out[key] for key in dict.fromkeys(("", *keys)) if key in source.left_out)
    if not len(paths) and source.halve and role == "eval" and any(map(source.list_class, keys)):
        raise NothingHeldOut(
            f"{parsed.text} has one image per class and no separate images for evaluation, so no image is held out from "
            "training. Add images to each class, or add a folder val/ beside train/."
        )
    if not len(paths):
        raise UsageError(f"No images for {parsed.text!r} ({source.layout}).{found_instead(left_out)}")
    decisions = list(source.decisions)
    if left := left_out.text():
        facts: dict[str, Any] = {"spec": parsed.text, "role": role, "reasons": left_out.by_reason()}
        decisions.append(Decision("files-left-out", f"left out: {left}", facts))
    if source.halve:
        said = (
            f"{parsed.base} has no separate training and evaluation images, so each class is split in half, "
            f"deterministically. {len(paths)} are {ROLES[role]}."
        )
        facts = {"spec": parsed.text, "role": role, "images": len(paths), "share": 0.5, "seed": SPLIT_SEED}
        decisions.append(Decision("split", said, facts))
    classes: tuple[ClassLabel, ...] = ()
    if source.keys:
        decisions += _missing_images(keys, counts, parsed, role, source.left_out)
        classes, named = _named(source, keys, given, class_names)
        decisions += [*named, *_same_names(classes, parsed.text)]
    images = ImageSet(
        spec=parsed.text,
        name=name,
        paths=paths,
        labels=labels,
        classes=classes,
        root=source.root,
        layout=source.layout,
        decisions=tuple(decisions),
        left_out=left_out,
        halved=source.halve,
    )
    kept = images.limited(limit, seed=seed)
    if kept is images:
        return images
    facts = {"spec": parsed.text, "role": role, "images": len(kept), "of": len(images)}
    said = f"{images.name} is limited to {len(kept)} of its {len(images)} images"
    return replace(kept, decisions=(*kept.decisions, Decision("limited", said, facts)))


def _list(source: Source, keys: Sequence[str], role: Role) -> tuple[ImagePaths, NDArray[np.int64], list[int]]:
    """List the images of `keys`: paths, labels (-1 without classes), and the number of images of each class."""
    counts: list[int] = []

    def relatives() -> Iterable[str]:
        for key in keys:
            files = source.list_class(key)
            if source.halve:
                part = sampling.half(len(files), key, seed=SPLIT_SEED, first=role == "train")
                files = [files[i] for i in part.tolist()]
            counts.append(len(files))
            yield from files

    paths = ImagePaths(source.root, relatives())
    label = np.arange(len(keys), dtype=np.int64) if source.keys else np.full(1, -1, dtype=np.int64)
    return paths, np.repeat(label, counts), counts


def _missing_images(
    keys: Sequence[str], counts: Sequence[int], spec: Spec, role: Role, left_out: Mapping[str, LeftOut]
) -> list[Decision]:
    empty = [key for key, count in zip(keys, counts, strict=True) if count == 0]
    if not empty:
        return []
    has = {key: left_out[key].text(beside=True) for key in empty if key in left_out}
    named = [f"{key} (has {has[key]})" if has.get(key) else key for key in empty]
    said = f"{len(empty)} of {len(keys)} classes of {spec.text} have no {ROLES[role]}: {some_of(named)}"
    if role == "train":
        raise EmptyClasses(f"{said}. Add images, remove the empty folders, or select the other classes with '#'.")
    return [
        Decision("classes-left-out", said, {"spec": spec.text, "role": role, "classes": empty, "reason": "no images"})
    ]


def _named(
    source: Source, keys: Sequence[str], given: Path, class_names: Path | None
) -> tuple[tuple[ClassLabel, ...], list[Decision]]:
    """Name the classes of `keys`, with a decision about the file that names come from."""
    file = class_names or class_name_file(given, source)
    if file is None:
        numbered = name_numbered(source.keys)
        return label_classes(keys, {**numbered.names, **source.names}), [] if source.names else list(numbered.decisions)
    # Names are matched to the whole class list, so a selector does not change which files fit.
    if file == source.named_by:
        names, decisions = source.names, [Decision("class-names", f"Class names from {file}.", {"file": str(file)})]
    else:
        found = read_class_names(file, source.keys)
        names, decisions = found.names, list(found.decisions)
    unnamed = [key for key in keys if key not in names and key not in source.names]
    if unnamed:
        said = f"{len(unnamed)} classes are not in {file} and keep the names of their folders: {some_of(unnamed)}"
        decisions.append(Decision("class-names", said, {"file": str(file), "unnamed": unnamed}))
    return label_classes(keys, {**source.names, **names}), decisions


def _same_names(classes: Sequence[ClassLabel], spec: str) -> list[Decision]:
    """Warn about class names that differ only in case or spaces. ImageNet's two cranes are fine: their wnids differ."""
    by_name: dict[str, list[str]] = {}
    for label in classes:
        if not label.wnid:
            by_name.setdefault(fold(label.name), []).append(label.key)
    same = [keys for keys in by_name.values() if len(keys) > 1]
    if not same:
        return []
    shown = some_of([" and ".join(repr(key) for key in keys) for keys in same], 3)
    said = (
        f"Classes of {spec} with the same name are learned as different classes: {shown}. If they are one class, put "
        "their images into one folder."
    )
    return [Decision("class-names", said, {"spec": spec, "same_name": same}, warning=True)]


def default_ood(spec: Spec) -> list[Spec]:
    """Return the default OOD sets of a data set of the built-in catalogue (such as p1 to p4), if any.

    With a selector there are none, because these OOD classes fit the whole set only.
    """
    entry = built_in().sets.get(spec.base.lower())
    if entry is None or entry.default_ood is None or spec.selector:
        return []
    return split_specs(entry.default_ood)


def match_classes(images: ImageSet, classes: Sequence[ClassLabel]) -> ImageSet:
    """Relabel an image set to the classes of an artifact.

    Classes are matched by wnid if both sides have one, else by name (`matching.fold` ignores case, underscores and Unicode
    forms). Several classes with the same name are matched in order and never merged, so the artifact must have at least as
    many classes of that name.

    Args:
        images: labelled images.
        classes: the classes of the artifact.

    Returns:
        The same images with labels that index `classes`.

    Raises:
        UsageError: a class of `images` matches none of `classes`; the message lists such classes.
    """
    target = class_places(images.classes, classes)
    unmatched = [
        c.name if c.name == c.key else f"{c.name} ({c.key})" for i, c in enumerate(images.classes) if target[i] < 0
    ]
    if unmatched:
        raise UsageError(
            f"{len(unmatched)} of {len(images.classes)} classes of {images.spec} are not among the {len(classes)} classes "
            f"of the prompts: {some_of(unmatched, 10)}.",
            remedy="match-classes",
        )
    labels = np.where(images.labels >= 0, target[images.labels], -1) if len(target) else images.labels
    return replace(images, labels=labels.astype(np.int64), classes=tuple(classes))


def joined(sets: Sequence[ImageSet], name: str) -> ImageSet:
    """Join several labelled sets of the same classes, in order.

    Args:
        sets: at least one set; all are matched to the same classes.
        name: name of the joined set.
    """
    first = sets[0]
    texts = [text for images in sets for text in _texts(images, first.root)]
    return ImageSet(
        spec=",".join(images.spec for images in sets),
        name=name,
        paths=ImagePaths(first.root, texts),
        labels=np.concatenate([images.labels for images in sets]),
        classes=first.classes,
        root=first.root,
        layout="; ".join(images.layout for images in sets),
        decisions=tuple(dict.fromkeys(decision for images in sets for decision in images.decisions)),
        left_out=merged(images.left_out for images in sets),
    )


def _texts(images: ImageSet, root: Path) -> Iterable[str]:
    """Yield paths as texts relative to `root`, or absolute if they are not below it."""
    if images.root == root:
        return images.paths.relatives()
    return (str(path.absolute()) for path in images.paths)


def classes_without_data(images: ImageSet, classes: Sequence[ClassLabel]) -> list[ClassLabel]:
    """Return those of an artifact's classes that an image set does not have; classes match as in `match_classes`."""
    present = set(class_places(images.classes, classes).tolist())
    return [c for i, c in enumerate(classes) if i not in present]


def class_places(given: Sequence[ClassLabel], classes: Sequence[ClassLabel]) -> NDArray[np.int64]:
    """Return (k,) for the k given classes: their indices in `classes`, matched as in `match_classes`; -1 if missing."""
    by_wnid = {c.wnid: i for i, c in enumerate(classes) if c.wnid}
    target = np.full(len(given), -1, dtype=np.int64)
    for i, c in enumerate(given):
        target[i] = by_wnid.get(c.wnid, -1) if c.wnid else -1
    taken = set(target.tolist())
    by_name: dict[str, list[int]] = {}
    for i, c in enumerate(classes):
        if i not in taken:
            by_name.setdefault(fold(c.name), []).append(i)
    for i in np.flatnonzero(target < 0).tolist():
        label = given[i]
        places = by_name.get(fold(label.name), [])
        fitting = [place for place in places if not (label.wnid and classes[place].wnid)]
        if fitting:
            target[i] = fitting[0]
            places.remove(fitting[0])
    return target


def files_digest(paths: Iterable[Path], root: Path) -> str:
    """Return the sha256 of the relative paths and sizes of files, in order; it identifies a list without reading images.

    For images inside a container file the size is that of the container. For datasets that a library reads it is 0, because
    the library checks them.

    Raises:
        NegPromptError: a file does not exist.
    """
    digest = hashlib.sha256()
    # For a million images, creating `Path` objects would take most of the time, so texts are used.
    above = os.path.join(root, "")  # noqa: PTH118
    for path in paths:
        text = str(path)
        try:
            size = container_size(path) if is_item(path) else os.stat(text).st_size  # noqa: PTH116
        except OSError as error:
            raise NegPromptError(f"Cannot read {path}: {error.strerror or error}.") from error
        relative = text.removeprefix(above).replace(os.sep, "/")
        digest.update(os.fsencode(relative) + b"\0" + str(size).encode() + b"\n")
    return digest.hexdigest()
