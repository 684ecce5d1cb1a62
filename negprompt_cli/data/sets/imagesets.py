"""From a data set SPEC to an image set: which images, of which classes, recognised how.

The steps: the name or path is found (`sources`), the selector picks classes of the sorted
class list, the images of those classes are listed and, where there are no separate training and evaluation images,
halved, classes get their names, and a limit is applied. Nothing is opened or decoded here; `images` does that.
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
from negprompt_cli.data.sets.layouts import Role, Source, found_instead
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.data.sets.naming import name_numbered, read_class_names
from negprompt_cli.data.sets.packed import container_size, is_item
from negprompt_cli.data.sets.sources import class_name_file, find_source, path_name
from negprompt_cli.data.sets.spec import Spec, parse_spec, select_indices, split_specs
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import NegPromptError, UsageError
from negprompt_cli.wording import some_of

__all__ = [
    "ClassLabel",
    "EmptyClasses",
    "ImageSet",
    "Role",
    "class_places",
    "default_ood",
    "files_digest",
    "joined",
    "load_image_set",
    "match_classes",
    "path_name",
    "split_specs",
]

SPLIT_SEED = 0
"""Seed of the half-and-half split. Fixed, so that evaluating with another seed never meets a training image."""


class EmptyClasses(UsageError):
    """Classes to be trained have no images; the message names them."""


class NothingHeldOut(UsageError):
    """Every class has one image, and training takes it."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one SPEC for one role, in an order that does not depend on the file system."""

    spec: str
    """As typed."""
    name: str
    """Short name for run folders and result rows: the catalogue name or last part of the path, and the selector."""
    paths: ImagePaths
    """n image files: a compact sequence of `Path`s."""
    labels: NDArray[np.int64]
    """(n,) indices into `classes`, -1 where unlabelled."""
    classes: tuple[ClassLabel, ...]
    """Sorted by key; empty for an unlabelled set."""
    root: Path
    """What relative paths start from."""
    layout: str
    """Which layout was recognised, and where."""
    decisions: tuple[Decision, ...]
    """What was decided about these images, which the user must be told."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What is in the folders of these images, of the chosen classes, and is not taken: counted by reason."""
    halved: bool = False
    """Whether these are one half of images that have no separate training and evaluation part."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: NDArray[np.int64], *more: Decision) -> "ImageSet":
        """The images at `indices` (m,), with `more` decisions added."""
        decisions = (*self.decisions, *more)
        return replace(self, paths=self.paths.take(indices), labels=self.labels[indices], decisions=decisions)


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
        spec: a catalogue name or a path, with an optional `#selector` into the sorted class list; as typed, or taken
            apart already.
        role: "train" takes train/, "eval" val/ or else test/; without them the images are halved per class, the same
            way for every seed. "ood" takes val/ or test/ where they are, otherwise all images.
        data_root: where catalogue sets are.
        seed: of the choice that `limit` makes.
        limit: at most this many images, classes as even as they allow.
        class_names: file naming the classes (`classnames.read_class_names`); wins over a classnames.txt in the data.
        catalogue: a catalogue file of the user's own.

    Raises:
        UsageError: unknown name, data that are not there (says what was tried), no images, no labels where the role
            needs them, training classes without images, a selector or class-name file that does not fit.
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
            f"{parsed.text} has one image per class and no separate images for evaluation, so nothing is held out from "
            "training. Add images to each class, or a folder val/ beside train/."
        )
    if not len(paths):
        raise UsageError(f"No images for {parsed.text!r} ({source.layout}).{found_instead(left_out)}")
    decisions = list(source.decisions)
    if told := left_out.told():
        facts: dict[str, Any] = {"spec": parsed.text, "role": role, "reasons": left_out.by_reason()}
        decisions.append(Decision("files-left-out", f"left out: {told}", facts))
    if source.halve:
        part = "training" if role == "train" else "evaluation"
        said = (
            f"{parsed.base} has no separate training and evaluation images, so each class is split in half, "
            f"deterministically. The {part} half has {len(paths)} images."
        )
        facts = {"spec": parsed.text, "role": role, "images": len(paths), "share": 0.5, "seed": SPLIT_SEED}
        decisions.append(Decision("split", said, facts))
    classes: tuple[ClassLabel, ...] = ()
    if source.keys:
        decisions += _missing_images(keys, counts, parsed, role, source.left_out)
        classes, named = _named(source, keys, given, class_names)
        decisions += [*named, *_alike(classes, parsed.text)]
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
    if limit is None:
        return images
    kept = sampling.limit(labels, list(paths.relatives()), class_keys=[c.key for c in classes], count=limit, seed=seed)
    if len(kept) == len(images):
        return images
    facts = {"spec": parsed.text, "role": role, "images": len(kept), "of": len(images)}
    return images.take(
        kept, Decision("limited", f"{images.name} is limited to {len(kept)} of its {len(images)} images", facts)
    )


def _list(source: Source, keys: Sequence[str], role: Role) -> tuple[ImagePaths, NDArray[np.int64], list[int]]:
    """List the images of `keys`: paths, labels (-1 without classes), and how many each class has."""
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
    has = {key: left_out[key].told(beside=True) for key in empty if key in left_out}
    named = [f"{key} (has {has[key]})" if has.get(key) else key for key in empty]
    said = f"{len(empty)} of {len(keys)} classes of {spec.text} have no images for {role}: {some_of(named)}"
    if role == "train":
        raise EmptyClasses(f"{said}. Add images, remove the empty folders, or select the other classes with '#'.")
    return [
        Decision("classes-left-out", said, {"spec": spec.text, "role": role, "classes": empty, "reason": "no images"})
    ]


def _named(
    source: Source, keys: Sequence[str], given: Path, class_names: Path | None
) -> tuple[tuple[ClassLabel, ...], list[Decision]]:
    """Name the classes of `keys`, and say which file did."""
    file = class_names or class_name_file(given, source)
    if file is None:
        numbered = name_numbered(source.keys)
        return label_classes(keys, {**numbered.names, **source.names}), [] if source.names else list(numbered.decisions)
    # The whole class list is the reference, so that a selector does not change which form of file fits.
    if file == source.named_by:
        names, decisions = source.names, [Decision("class-names", f"Class names from {file}.", {"file": str(file)})]
    else:
        found = read_class_names(file, source.keys)
        names, decisions = found.names, list(found.decisions)
    unnamed = [key for key in keys if key not in names and key not in source.names]
    if unnamed:
        said = f"{len(unnamed)} classes are not in {file} and keep their own names: {some_of(unnamed)}"
        decisions.append(Decision("class-names", said, {"file": str(file), "unnamed": unnamed}))
    return label_classes(keys, {**source.names, **names}), decisions


def _alike(classes: Sequence[ClassLabel], spec: str) -> list[Decision]:
    """The warning about class names that differ only in case or spaces. ImageNet's two cranes differ by wnid."""
    by_name: dict[str, list[str]] = {}
    for label in classes:
        if not label.wnid:
            by_name.setdefault(fold(label.name), []).append(label.key)
    same = [keys for keys in by_name.values() if len(keys) > 1]
    if not same:
        return []
    shown = some_of([" and ".join(repr(key) for key in keys) for keys in same], 3)
    said = (
        f"Classes of {spec} that have the same name are learned as different ones: {shown}. If they are one class, put "
        "their images together."
    )
    return [Decision("class-names", said, {"spec": spec, "same_name": same}, warning=True)]


def default_ood(spec: Spec) -> list[Spec]:
    """The OOD sets that a data set of the built-in catalogue brings along (p1..p4 theirs), if any.

    A selector takes it away, because the OOD classes belong to the whole set.
    """
    entry = built_in().sets.get(spec.base.lower())
    if entry is None or entry.default_ood is None or spec.selector:
        return []
    return split_specs(entry.default_ood)


def match_classes(images: ImageSet, classes: Sequence[ClassLabel]) -> ImageSet:
    """Relabel an image set to the classes of an artifact.

    A class is matched by wnid where both sides know it, else by name (`matching.fold`: upper and lower case, underscores and
    Unicode forms alike). Classes of one name are matched in order and never merged: the artifact must have as many of that
    name.

    Args:
        images: labelled images.
        classes: the classes of the artifact.

    Returns:
        The same images with labels that index `classes`, and `classes` as their classes.

    Raises:
        UsageError: classes of `images` that match none of `classes`; names them.
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
    """Several labelled sets of the same classes as one, in their order.

    Args:
        sets: at least one; each matched to the same classes.
        name: what the whole is called.
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
    """Paths as texts below `root`, or absolute where they are not below it."""
    if images.root == root:
        return images.paths.relatives()
    return (str(path.absolute()) for path in images.paths)


def classes_without_data(images: ImageSet, classes: Sequence[ClassLabel]) -> list[ClassLabel]:
    """Those of an artifact's classes that an image set does not have, by the rule of `match_classes`."""
    present = set(class_places(images.classes, classes).tolist())
    return [c for i, c in enumerate(classes) if i not in present]


def class_places(given: Sequence[ClassLabel], classes: Sequence[ClassLabel]) -> NDArray[np.int64]:
    """For each given class its place among `classes`, -1 where it has none, by the rule of `match_classes`."""
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
    """sha256 over the relative path and size of files, in their order: names a list of images without reading them.

    Images inside a file that holds many count with the size of that file; those of datasets that a library reads with 0,
    because it checks them itself.

    Raises:
        NegPromptError: a file that is not there.
    """
    digest = hashlib.sha256()
    # Texts, because paths take most of the time of a million images.
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
