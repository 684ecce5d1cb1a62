"""Find the catalogue entry, folder or list that the name or path in a SPEC refers to.

A catalogue entry is searched in each of its layouts below the data root, in the order of the catalogue. A subset without its
own folder consists of classes of the whole set. If nothing is found, the message lists all places that were tried.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from negprompt_cli.data.sets.catalogue import Catalogue, Entry, Layout
from negprompt_cli.data.sets.classnames import imagenet_wnids
from negprompt_cli.data.sets.filekinds import is_image_name
from negprompt_cli.data.sets.hub_images import PREFIX, is_saved
from negprompt_cli.data.sets.imglist import list_source
from negprompt_cli.data.sets.layouts import Role, Source, Splits, find_splits, list_entries, open_splits
from negprompt_cli.data.sets.packed import expanded, is_packed_file, packed_files
from negprompt_cli.data.sets.packed_source import dataset_source, packed_source
from negprompt_cli.data.sets.parts import part_named
from negprompt_cli.data.sets.spec import Spec, exists, parse_ranges, user_path
from negprompt_cli.data.sets.torchsets import torchvision_root, torchvision_source
from negprompt_cli.errors import UsageError

_FIFTYONE = "labels.json"
"""File beside a folder data/ in an image classification set exported by FiftyOne."""


def class_name_file(given: Path, source: Source) -> Path | None:
    """Find the classnames.txt of the data: beside a list, in the folder, in a skipped subfolder, or above a split."""
    if given.is_file():
        own = given.with_suffix(".classnames.txt")
        return own if own.is_file() else None
    chain = [given]
    if source.root != given and source.root.is_relative_to(given):
        chain += [source.root, *(path for path in source.root.parents if path.is_relative_to(given))]
    while (chain[-1].name == "images" or part_named(chain[-1].name)) and chain[-1].parent != chain[-1]:
        chain.append(chain[-1].parent)
    return next((path / "classnames.txt" for path in chain if (path / "classnames.txt").is_file()), None)


def find_source(
    spec: Spec, role: Role, data_root: Path, sets: Catalogue, class_names: Path | None
) -> tuple[Source, str, Path]:
    """Find what the base of `spec` names: its source, a short name, and the folder or file.

    Raises:
        UsageError: nothing with that name or path exists, or it cannot serve the role.
    """
    if spec.base.startswith(PREFIX) and not exists(Path(spec.base)):
        return dataset_source(spec.base, role, class_names=class_names), short_name(spec), Path(spec.base)
    path = user_path(spec.base)
    tried = [path] if path.is_absolute() else [path, data_root / path]
    found = next((candidate for candidate in tried if exists(candidate)), None)
    # A catalogue name in another case still means the catalogue, unless a path with that name exists.
    name = spec.base if spec.base in sets.sets or found else spec.base.lower()
    if name in sets.sets:
        try:
            source = entry_source(name, role, data_root, sets)
        except UsageError as error:
            if found is None or not found.is_dir():
                raise
            raise UsageError(
                f"{error}\nThe folder {found.absolute()} has none of these layouts. To use it as it is, give that path."
            ) from error
        return source, short_name(replace(spec, base=name)), source.root
    files = [] if found else next((files for one in tried if (files := expanded(str(one)))), [])
    if files:
        source = packed_source(spec.base, files, role, class_names=class_names)
        return source, short_name(spec), files[0].parent
    if found is None:
        places = " and ".join(str(candidate) for candidate in tried)
        raise UsageError(
            f"No data set {spec.base!r}: it is not in the catalogue, and no such path exists (tried {places})."
            f"{sets.suggestion(spec.base)}",
            remedy="list-sets",
        )
    return _path_source(spec, found, role, data_root, sets, class_names), short_name(spec, found), found


def _path_source(
    spec: Spec, found: Path, role: Role, data_root: Path, sets: Catalogue, class_names: Path | None
) -> Source:
    """Make the source of a folder or a file."""
    if found.is_dir() and (found / "data").is_dir() and (found / _FIFTYONE).is_file():
        return list_source(found / _FIFTYONE, role, data_root=data_root, class_names=class_names)
    if found.is_dir() and is_saved(found):
        return dataset_source(f"{PREFIX}{found}", role, class_names=class_names)
    if files := [found] if is_packed_file(found) else packed_files(found) if found.is_dir() else []:
        return packed_source(spec.base, files, role, class_names=class_names)
    if found.is_dir():
        return open_splits(find_splits(found), role)
    if is_image_name(found.name):
        raise UsageError(f"{found} is a single image. Give its folder, or a text file that lists images.")
    sidecar = found.with_suffix(".classnames.txt")
    names = class_names or (sidecar if sidecar.is_file() else None)
    return list_source(found, role, data_root=data_root, prefixes=sets.list_prefixes, class_names=names)


def short_name(spec: Spec, found: Path | None = None) -> str:
    """Return a short name for run folders and result rows: that of the catalogue or of the path, and the selector."""
    if found is None:
        plain = re.sub(r"[^\w.+-]+", "_", spec.base.rstrip("/").rpartition("/")[2].removeprefix(PREFIX))
        return (plain or "data") + spec.label
    return (found.stem if found.is_file() else path_name(found)) + spec.label


def path_name(path: Path) -> str:
    """Return a short name for a folder: its last part, with the part above if the last is generic (val, images)."""
    parts = [part for part in path.absolute().parts if part not in ("/", "..")]
    generic = {"train", "val", "test", "images"}
    while len(parts) > 1 and parts[-1] in generic and parts[-2] in generic:
        parts = [*parts[:-2], parts[-1]]
    name = "-".join(parts[-2:]) if len(parts) > 1 and parts[-1] in generic else (parts or ["data"])[-1]
    return re.sub(r"[^\w.+-]+", "_", name)


def entry_source(name: str, role: Role, data_root: Path, sets: Catalogue) -> Source:
    """Make the source of catalogue entry `name` from the first layout that exists; a subset may come from its whole.

    Raises:
        UsageError: no layout exists (the message lists the places tried and what to do), or it cannot serve the role.
    """
    entry = sets.sets[name]
    keys = _entry_keys(entry, sets)
    tried: list[str] = []
    for layout in entry.layouts:
        source = _layout_source(layout, role, data_root, keys, tried)
        if source is not None:
            return source
    if entry.torchvision is not None:
        source = torchvision_source(entry.torchvision, role, roots=_torchvision_roots(name, data_root), tried=tried)
        if source is not None:
            return source
    if entry.subset is None:
        raise missing_set(name, entry, data_root, tried)
    try:
        source = entry_source(entry.subset.of, role, data_root, sets)
    except UsageError as error:
        also = f" {name} has no folder of its own either: tried {', '.join(tried)}." if tried else ""
        raise UsageError(f"{name} consists of classes of {entry.subset.of}. {error}{also}") from error
    if not source.keys:
        raise UsageError(f"{name} selects classes of {entry.subset.of}, but {source.no_classes}.")
    subset = keys or tuple(
        source.keys[i] for i in parse_ranges(entry.subset.ranges, count=len(source.keys), what=entry.subset.of)
    )
    return replace(source, keys=subset)


def locate(name: str, role: Role, data_root: Path, sets: Catalogue) -> str | None:
    """Return the layout of catalogue entry `name` that is on disk for `role`, or None; no image is listed or loaded."""
    entry = sets.sets[name]
    if entry.torchvision is not None:
        root = torchvision_root(entry.torchvision, role, _torchvision_roots(name, data_root))
        return f"torchvision layout: {entry.torchvision} in {root}" if root else None
    try:
        return entry_source(name, role, data_root, sets).layout
    except UsageError:
        return None


def _torchvision_roots(name: str, data_root: Path) -> list[Path]:
    return [data_root, data_root / name]


def _entry_keys(entry: Entry, sets: Catalogue) -> tuple[str, ...]:
    """Return the sorted class list of an entry if it is known without reading the disk, else nothing."""
    if entry.class_list == "imagenet":
        return imagenet_wnids()
    if entry.subset is None:
        return ()
    keys = _entry_keys(sets.sets[entry.subset.of], sets)
    chosen = parse_ranges(entry.subset.ranges, count=len(keys), what=entry.subset.of) if keys else ()
    return tuple(keys[i] for i in chosen)


def _layout_source(
    layout: Layout, role: Role, data_root: Path, keys: tuple[str, ...], tried: list[str]
) -> Source | None:
    """Make the source of one layout, or return None if it does not exist; places tried are added to `tried`."""
    by = f"{layout.by} layout: "
    if layout.images is not None:
        folder = data_root / layout.images
        if layout.imglist is not None:
            file = data_root / layout.imglist
            tried.append(f"{file} with the images in {folder} ({layout.by})")
            if not (file.is_file() and folder.is_dir()):
                return None
            source = list_source(file, role, data_root=data_root, root=folder, index_keys=keys)
            return replace(source, layout=by + source.layout)
        tried.append(f"{folder} ({layout.by})")
        if not _holds_something(folder):
            return None
        splits = find_splits(folder)
        return open_splits(replace(splits, layout=by), role, keys=keys, label_folders=[data_root])
    train = (data_root / layout.train).absolute() if layout.train else None
    evaluation = (data_root / layout.eval).absolute() if layout.eval else None
    wanted = train if role == "train" else evaluation
    typed = layout.train if role == "train" else layout.eval
    if typed is not None:
        tried.append(f"{data_root / typed} ({layout.by})")
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
    return folder.is_dir() and any(list_entries(folder)[:2])


def _fits(folder: Path, keys: Sequence[str]) -> bool:
    """Whether a folder with class folders has at least one of `keys` (the `train/` of another set has none)."""
    images, folders, _ = list_entries(folder)
    return bool(images) or bool(set(folders) & set(keys))


def missing_set(name: str, entry: Entry, data_root: Path, tried: Sequence[str]) -> UsageError:
    """Make the error for a catalogue set that is not on disk: the places tried, and how to get the set."""
    places = "".join(f"\n  {place}" for place in tried)
    if Path(name).exists():
        places += f"\nA path with that name exists here. Write ./{name} to use it."
    message = f"Data set {name!r} is not below the data root {data_root}. Tried:{places}"
    if entry.download is not None or entry.comes_with is not None:
        return UsageError(message, remedy="data-download", name=entry.comes_with or name, data_root=data_root)
    return UsageError(f"{message}\n{entry.fetch or 'Put it into one of these places.'}", remedy="data-elsewhere")
