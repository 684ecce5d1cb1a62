"""From a data set SPEC to an image set: which images, of which classes, recognised how.

The steps: the name or path is found (`catalogue`, `layouts`, `imglist`), the selector picks classes of the sorted
class list, the images of those classes are listed and, where there are no separate training and evaluation images,
halved, classes get their names, and a limit is applied. Nothing is opened or decoded here; `images` does that.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from negprompt_cli.data import sampling
from negprompt_cli.data.catalogue import Catalogue, Entry, Layout, load_catalogue, protocols
from negprompt_cli.data.classnames import ClassLabel, imagenet_wnids, label_classes, read_class_names
from negprompt_cli.data.imagepaths import ImagePaths
from negprompt_cli.data.imglist import list_source
from negprompt_cli.data.layouts import IMAGE_SUFFIXES, Role, Source, Splits, find_splits, list_entries, open_splits
from negprompt_cli.data.spec import Spec, parse_ranges, parse_spec, select_indices, split_specs
from negprompt_cli.errors import NegPromptError, UsageError, did_you_mean

__all__ = [
    "ClassLabel",
    "ImageSet",
    "Role",
    "default_ood",
    "files_digest",
    "load_image_set",
    "match_classes",
    "split_specs",
]

SPLIT_SEED = 0
"""Seed of the half-and-half split. Fixed, so that evaluating with another --seed never meets a training image."""


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
    notes: tuple[str, ...]
    """What the user must be told."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: NDArray[np.int64], *notes: str) -> "ImageSet":
        """The images at `indices` (m,), with `notes` added."""
        return replace(self, paths=self.paths.take(indices), labels=self.labels[indices], notes=(*self.notes, *notes))


def load_image_set(
    spec: str,
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
        spec: a catalogue name or a path, with an optional `#selector` into the sorted class list.
        role: "train" takes train/, "eval" val/ or else test/; without them the images are halved per class, the same
            way for every seed. "ood" takes val/ or test/ where they are, otherwise all images.
        data_root: where catalogue sets lie.
        seed: of the choice that `limit` makes.
        limit: at most this many images, classes as even as they allow.
        class_names: file naming the classes (`classnames.read_class_names`); wins over a classnames.txt in the data.
        catalogue: a catalogue file of the user's own.

    Raises:
        UsageError: unknown name, data that are not there (says what was tried), no images, no labels where the role
            needs them, training classes without images, a selector or class-name file that does not fit.
    """
    parsed = parse_spec(spec)
    sets = load_catalogue(data_root, catalogue)
    source, name, given = _find(parsed, role, data_root, sets, class_names)
    folders = (given, source.root, data_root)
    if parsed.selector and not source.keys and source.no_classes:
        raise UsageError(f"'#{parsed.selector}' selects classes, but {source.no_classes}.")
    chosen = select_indices(parsed, source.keys, folders=folders)
    keys = [source.keys[i] for i in chosen] if source.keys else [""]
    paths, labels, counts = _list(source, keys, role)
    if not len(paths):
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"No images for {parsed.text!r} ({source.layout}). Looked for files ending in {suffixes}.")
    notes = list(source.notes)
    if source.halve:
        part = "training" if role == "train" else "evaluation"
        notes.append(
            f"{parsed.base} has no separate training and evaluation images: each class is split half and half (always "
            f"the same way); the {part} half has {len(paths)} images."
        )
    classes: tuple[ClassLabel, ...] = ()
    if source.keys:
        notes += _missing_images(keys, counts, parsed, role)
        classes, said = _named(source, keys, given, class_names)
        notes += said
    images = ImageSet(
        spec=parsed.text,
        name=name,
        paths=paths,
        labels=labels,
        classes=classes,
        root=source.root,
        layout=source.layout,
        notes=tuple(notes),
    )
    if limit is None:
        return images
    kept = sampling.limit(labels, list(paths.relatives()), class_keys=[c.key for c in classes], count=limit, seed=seed)
    return images.take(kept, f"limited to {len(kept)} of {len(images)} images") if len(kept) < len(images) else images


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


def _missing_images(keys: Sequence[str], counts: Sequence[int], spec: Spec, role: Role) -> list[str]:
    empty = [key for key, count in zip(keys, counts, strict=True) if count == 0]
    if not empty:
        return []
    said = f"{len(empty)} of {len(keys)} classes of {spec.text} have no images for {role}: {_some(empty)}"
    if role == "train":
        raise UsageError(f"{said}. Add images, remove the empty folders, or select the other classes with '#'.")
    return [said]


def _named(
    source: Source, keys: Sequence[str], given: Path, class_names: Path | None
) -> tuple[tuple[ClassLabel, ...], list[str]]:
    """Name the classes of `keys`, and say which file did."""
    file = class_names or _class_name_file(given, source)
    if file is None:
        return label_classes(keys, source.names), []
    # The whole class list is the reference, so that a selector does not change which form of file fits.
    names = read_class_names(file, source.keys) if class_names or not source.names else {}
    unnamed = [key for key in keys if key not in names and key not in source.names]
    notes = [f"class names from {file}"]
    if unnamed:
        notes.append(f"{len(unnamed)} classes are not in {file} and keep their own names: {_some(unnamed)}")
    return label_classes(keys, {**source.names, **names}), notes


def _class_name_file(given: Path, source: Source) -> Path | None:
    """The classnames.txt that belongs to the data: beside a list, in the folder, on the way down, or above a split."""
    if given.is_file():
        own = given.with_suffix(".classnames.txt")
        return own if own.is_file() else None
    chain = [given]
    if source.root != given and source.root.is_relative_to(given):
        chain += [source.root, *(path for path in source.root.parents if path.is_relative_to(given))]
    while chain[-1].name in {"train", "val", "test", "images"} and chain[-1].parent != chain[-1]:
        chain.append(chain[-1].parent)
    return next((path / "classnames.txt" for path in chain if (path / "classnames.txt").is_file()), None)


def _find(
    spec: Spec, role: Role, data_root: Path, sets: Catalogue, class_names: Path | None
) -> tuple[Source, str, Path]:
    """Find what the base of `spec` names: its source, a short name, and the folder or file that was meant."""
    entry = sets.entry(spec.base)
    if entry is not None:
        source = _entry_source(spec.base, entry, role, data_root, sets)
        return source, spec.base.lower() + spec.label, source.root
    path = Path(spec.base).expanduser()
    tried = [path] if path.is_absolute() else [path, data_root / path]
    found = next((candidate for candidate in tried if candidate.exists()), None)
    if found is None:
        places = " and ".join(str(candidate) for candidate in tried)
        raise UsageError(
            f"No data set {spec.base!r}: it is not in the catalogue and there is no such path (tried {places})."
            f"{sets.suggestion(spec.base)} `negprompt data ls` lists the catalogue; a path must exist."
        )
    if found.is_dir():
        splits = find_splits(found)
        return open_splits(splits, role), path_name(found) + spec.label, found
    sidecar = found.with_suffix(".classnames.txt")
    names = class_names or (sidecar if sidecar.is_file() else None)
    source = list_source(found, role, data_root=data_root, prefixes=sets.list_prefixes, class_names=names)
    return source, found.stem + spec.label, found


def path_name(path: Path) -> str:
    """A short name for a folder: its last part, with the one above where the last says nothing (val, images)."""
    parts = [part for part in path.absolute().parts if part not in ("/", "..")]
    generic = {"train", "val", "test", "images"}
    while len(parts) > 1 and parts[-1] in generic and parts[-2] in generic:
        parts = [*parts[:-2], parts[-1]]
    name = "-".join(parts[-2:]) if len(parts) > 1 and parts[-1] in generic else (parts or ["data"])[-1]
    return re.sub(r"[^\w.+-]+", "_", name)


def _entry_source(name: str, entry: Entry, role: Role, data_root: Path, sets: Catalogue) -> Source:
    """The source of a catalogue entry: the first of its layouts that is there; a subset is cut out of its whole."""
    keys = _entry_keys(entry, sets)
    tried: list[str] = []
    for layout in entry.layouts:
        source = _layout_source(layout, role, data_root, keys, tried)
        if source is not None:
            return source
    if entry.subset is None:
        raise UsageError(missing_message(name, entry, data_root, tried))
    whole = sets.entry(entry.subset.of)
    if whole is None:
        raise UsageError(f"{name} is a subset of {entry.subset.of!r}, which is not in the catalogue.")
    try:
        source = _entry_source(entry.subset.of, whole, role, data_root, sets)
    except UsageError as error:
        also = f" {name} also has no folder of its own: tried {', '.join(tried)}." if tried else ""
        raise UsageError(f"{name} is cut out of {entry.subset.of}. {error}{also}") from error
    if not source.keys:
        raise UsageError(f"{name} selects classes of {entry.subset.of}, but {source.no_classes}.")
    subset = keys or tuple(
        source.keys[i] for i in parse_ranges(entry.subset.classes or "", count=len(source.keys), what=entry.subset.of)
    )
    return replace(source, keys=subset)


def _entry_keys(entry: Entry, sets: Catalogue) -> tuple[str, ...]:
    """The sorted class list of an entry where it is known without looking at the disk."""
    if entry.class_list == "imagenet":
        return imagenet_wnids()
    if entry.subset is None:
        return ()
    whole = sets.entry(entry.subset.of)
    keys = _entry_keys(whole, sets) if whole else ()
    if not keys:
        return ()
    if entry.subset.protocol:
        protocol = protocols().get(entry.subset.protocol)
        if protocol is None:
            raise UsageError(
                f"No protocol {entry.subset.protocol!r}.{did_you_mean(entry.subset.protocol, protocols())}"
            )
        ranges = protocol.part(entry.subset.part)
    else:
        ranges = entry.subset.classes or ""
    return tuple(keys[i] for i in parse_ranges(ranges, count=len(keys), what=entry.subset.of))


def _layout_source(
    layout: Layout, role: Role, data_root: Path, keys: tuple[str, ...], tried: list[str]
) -> Source | None:
    """The source of one layout, or None where it is not there; what was looked for is added to `tried`."""
    by = f"{layout.by} layout: "
    if layout.images is not None:
        folder = data_root / layout.images
        if layout.imglist is not None:
            file = data_root / layout.imglist
            tried.append(f"{file} with the images in {folder} ({layout.by})")
            if not (file.is_file() and folder.is_dir()):
                return None
            source = list_source(file, role, data_root=data_root, root=folder)
            return replace(source, layout=by + source.layout)
        tried.append(f"{folder} ({layout.by})")
        if not _holds_something(folder):
            return None
        splits = find_splits(folder)
        return open_splits(replace(splits, layout=by), role, keys=keys, label_folders=[data_root])
    train = data_root / layout.train if layout.train else None
    evaluation = data_root / layout.eval if layout.eval else None
    wanted = train if role == "train" else evaluation
    if wanted is not None:
        tried.append(f"{wanted} ({layout.by})")
    if wanted is None or not _holds_something(wanted) or (keys and not _fits(wanted, keys)):
        return None
    present = [path for path in (train, evaluation) if path and path.is_dir()]
    splits = Splits(
        root=Path(os.path.commonpath([path.parent for path in present])),
        layout=by,
        train=train if train in present else None,
        evaluation=evaluation if evaluation in present else None,
    )
    return replace(open_splits(splits, role, keys=keys, label_folders=[data_root], halve=False), halve=False)


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(list_entries(folder))


def _fits(folder: Path, keys: Sequence[str]) -> bool:
    """Whether a folder with class folders has at least one of `keys` (a `train/` of something else has none)."""
    images, folders = list_entries(folder)
    return bool(images) or bool(set(folders) & set(keys))


def missing_message(name: str, entry: Entry, data_root: Path, tried: Sequence[str]) -> str:
    """What to say when a catalogue set is not on disk: what was tried, and what to put where."""
    places = "".join(f"\n  {place}" for place in tried)
    message = f"Data set {name!r} is not below the data root {data_root}. Tried:{places}\n"
    if entry.download is not None:
        message += f"Get it with: negprompt data download {name} --data-root {data_root}"
    elif entry.fetch is not None:
        message += entry.fetch
    else:
        message += "Put it into one of these places."
    return message + " Another place is given with --data-root or NEGPROMPT_DATA_ROOT."


def default_ood(spec: str) -> str | None:
    """The OOD list that a data set brings along (p1..p4 theirs), or None; a selector takes it away.

    Only the built-in catalogue is asked.
    """
    parsed = parse_spec(spec)
    entry = load_catalogue(Path(os.devnull)).entry(parsed.base)
    return entry.default_ood if entry is not None and not parsed.selector else None


def match_classes(images: ImageSet, classes: Sequence[ClassLabel]) -> ImageSet:
    """Relabel an image set to the classes of an artifact.

    A class is matched by wnid where both sides know it, else by name (upper and lower case alike). A name that occurs
    more than once must occur equally often on both sides, and is matched in order.

    Args:
        images: labelled images.
        classes: the classes of the artifact.

    Returns:
        The same images with labels that index `classes`, and `classes` as their classes.

    Raises:
        UsageError: classes of `images` that match none of `classes`; names them.
    """
    by_wnid = {c.wnid: i for i, c in enumerate(classes) if c.wnid}
    target = np.full(len(images.classes), -1, dtype=np.int64)
    for i, c in enumerate(images.classes):
        if c.wnid in by_wnid:
            target[i] = by_wnid[c.wnid]
    fold: Callable[[str], str] = lambda name: " ".join(name.casefold().split())  # noqa: E731
    open_here = [i for i, c in enumerate(images.classes) if target[i] < 0]
    taken = set(target.tolist())
    by_name: dict[str, list[int]] = {}
    for i, c in enumerate(classes):
        if i not in taken:
            by_name.setdefault(fold(c.name), []).append(i)
    asked = Counter(fold(images.classes[i].name) for i in open_here)
    for i in open_here:
        label = images.classes[i]
        places = by_name.get(fold(label.name), [])
        fitting = [place for place in places if not (label.wnid and classes[place].wnid)]
        if fitting and asked[fold(label.name)] == len(fitting):
            target[i] = fitting[0]
            places.remove(fitting[0])
            asked[fold(label.name)] -= 1
    unmatched = [
        c.name if c.name == c.key else f"{c.name} ({c.key})" for i, c in enumerate(images.classes) if target[i] < 0
    ]
    if unmatched:
        raise UsageError(
            f"{len(unmatched)} of {len(images.classes)} classes of {images.spec} are not among the {len(classes)} classes "
            f"of the prompts: {_some(unmatched, 10)}. Select the classes that are with '#', name them with --class-names, "
            "or transfer the prompts to these classes."
        )
    labels = np.where(images.labels >= 0, target[images.labels], -1) if len(target) else images.labels
    return replace(images, labels=labels.astype(np.int64), classes=tuple(classes))


def files_digest(paths: Iterable[Path], root: Path) -> str:
    """sha256 over the relative path and size of files, in their order: names a list of images without reading them.

    Raises:
        NegPromptError: a file that is not there.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise NegPromptError(f"Cannot read {path}: {error.strerror or error}.") from error
        relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        digest.update(os.fsencode(relative) + b"\0" + str(size).encode() + b"\n")
    return digest.hexdigest()


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few of `names`, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
