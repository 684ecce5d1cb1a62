"""Make a source of images from a list: choose the images for a role, and name their classes.

`image_list` reads the forms of lists, and `list_places` finds the images on this computer.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from negprompt_cli.data.sets.class_list import read_class_list
from negprompt_cli.data.sets.classnames import class_label, imagenet_wnids, is_wnid
from negprompt_cli.data.sets.filekinds import LeftOut, system_part
from negprompt_cli.data.sets.image_list import read_image_list
from negprompt_cli.data.sets.image_records import ImageList, Line
from negprompt_cli.data.sets.layouts import ROLES, Role, Source
from negprompt_cli.data.sets.list_places import one_path, place_images
from negprompt_cli.data.sets.matching import Known, clean, fold
from negprompt_cli.data.sets.naming import names_by_label
from negprompt_cli.data.sets.packed import PACKED_SUFFIXES
from negprompt_cli.data.sets.parts import Part, part_named
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

_OOD = -1
_PROTOCOL_IGNORED, _PROTOCOL_OOD = -1, -2


def list_source(
    file: Path,
    role: Role,
    *,
    data_root: Path,
    prefixes: Sequence[str] = (),
    root: Path | None = None,
    class_names: Path | None = None,
    index_keys: Sequence[str] = (),
) -> Source:
    """Make the source of `role` from a list file.

    Images are searched below `root` if it is given, otherwise as `place_images` does. The class keys are the first that
    apply: the images' class folders, if each label has its own; the class names in the list; line `label` of `class_names`;
    wnids, if the labels are those of ImageNet-1k (files like ILSVRC2012_val_...). Without labels they are the class folders.

    If `index_keys` are given, a label is an index into them, unless the class folders are wnids.

    Role "ood" uses the images labelled OOD, or all images if there are none. The other roles use images with a class. If
    the list names the part of each image, or has images in train/ and in val/ (or test/), each role uses its own part.
    Otherwise a list with the word train, val or test in its name is used as a whole for that role, and any other list is
    split in half.

    Raises:
        UsageError: the list has no images for the role, or its name says that it is for the other role; images are not
            found; labels have no names; or an image has two classes.
    """
    listed = read_image_list(file)
    place = partial(place_images, listed, data_root=data_root, prefixes=prefixes, root=root)
    return listed_source(listed, role, place, kind=list_part(file), class_names=class_names, index_keys=index_keys)


def listed_source(
    listed: ImageList,
    role: Role,
    place: "Callable[[Sequence[Line]], tuple[Path, list[Line], list[Decision]]]",
    *,
    kind: Literal["train", "eval"] | None = None,
    class_names: Path | None = None,
    index_keys: Sequence[str] = (),
    layout: str = "",
) -> Source:
    """Make the source of `role` from a list of images of any origin; see `list_source`.

    Args:
        listed: the images with their classes and parts.
        role: the use of the images.
        place: function that finds the folder that paths are relative to, and the paths, as `place_images` does.
        kind: the only role that the list is for; None if it is for both.
        index_keys: as for `list_source`.
        class_names: a file of class names.
        layout: description of the layout for messages; by default that of a list.

    Raises:
        UsageError: as `list_source`.
    """
    file = Path(listed.source)
    decisions = list(listed.decisions)
    left_out = LeftOut()
    chosen = list(_of_role(listed, role, left_out))
    if not chosen:
        raise UsageError(f"{file} lists no {ROLES[role]}: all {len(listed.lines)} images are labelled OOD.")
    chosen, apart, said = _part_of_role(listed, chosen, role, kind)
    decisions += said
    folder, chosen, said = place(chosen)
    chosen = [
        line if (path := one_path(folder, line.path)) == line.path else replace(line, path=path) for line in chosen
    ]
    decisions += said
    layout = layout or f"list {file} of images below {folder}"
    count = len(listed.lines) - sum(left_out.counts.values())
    if len(chosen) < count:
        text = f"{file} lists {count} images; {len(chosen)} of them are {ROLES[role]}"
        facts = {"file": str(file), "listed": count, "used": len(chosen), "role": role}
        decisions.append(Decision("files-left-out", text, facts))
    keyed = _key_labels(file, chosen, class_names, index_keys)
    if keyed is None:
        if role != "ood":
            raise _without_classes(listed, chosen, role, class_names)
        paths = sorted({line.path for line in chosen})
        return Source(
            folder,
            (),
            lambda _: paths,
            layout,
            {},
            decisions=tuple(decisions),
            no_classes=f"{file} has no class labels",
            left_out={"": left_out},
        )
    by_class: dict[str, set[str]] = {}
    for key, line in zip(keyed.keys, chosen, strict=True):
        by_class.setdefault(key, set()).add(line.path)
    decisions += _repeats(file, by_class, len(chosen), role)
    return Source(
        folder,
        tuple(sorted(by_class)),
        lambda key: sorted(by_class.get(key, ())),
        f"{layout}, classes by {keyed.kind}",
        keyed.names,
        halve=role != "ood" and not apart and kind is None,
        decisions=(*decisions, *keyed.decisions),
        named_by=keyed.named_by,
        left_out={"": left_out},
    )


def _without_classes(listed: ImageList, chosen: Sequence[Line], role: Role, class_names: Path | None) -> UsageError:
    """Make the error for a list whose images have no classes."""
    bare = [line.path for line in chosen if _tag(line) is None]
    fault = f"{listed.source} does not name its classes."
    if listed.unclear:
        fault += f" {listed.unclear}"
    elif len(bare) == len(chosen):
        fault = f"None of the {len(chosen)} {ROLES[role]} of {listed.source} has a class."
    elif class_names is not None and not bare:
        numbers = sorted({line.label for line in chosen if line.label is not None})
        fault = f"{class_names} has no names for the labels of {listed.source}, which are {some_of(numbers)}."
    elif bare:
        fault += f" The first image without a label is {bare[0][:200]!r}."
    advice = "Put the images of each class into a separate folder, or name the classes in a file."
    return UsageError(f"{fault} {advice}", remedy="class-names")


def list_part(file: Path) -> Literal["train", "eval"] | None:
    """Return the part that the words of a list's name say, such as train_imagenet.txt or p1-val.csv; None without one."""
    parts = {part_named(word) for word in re.findall("[a-z]+", file.stem.lower())} - {None}
    if "train" in parts:
        return "train" if len(parts) == 1 else None
    return "eval" if parts else None


@dataclass(frozen=True)
class _Keyed:
    """The class key of each line, the kind of the keys, and the names that belong to them."""

    keys: list[str]
    kind: str
    names: dict[str, str]
    named_by: Path | None = None
    decisions: tuple[Decision, ...] = ()


def _tag(line: Line) -> int | str | None:
    """Return what identifies the class of a line: its number, or else its name."""
    return line.label if line.label is not None else fold(line.name) if line.name else None


def _key_labels(
    file: Path, lines: Sequence[Line], class_names: Path | None, index_keys: Sequence[str]
) -> _Keyed | None:
    """Find the class keys of `lines`; None if the classes cannot be distinguished or named."""
    parents = [_class_folder(line.path) for line in lines]
    tags = [_tag(line) for line in lines]
    _check_names(file, lines)
    given = {parent: _spoken(line.name) for parent, line in zip(parents, lines, strict=True) if line.name}
    by_folder = _Keyed(parents, "class folder", given)
    numbered = [tag for tag in tags if isinstance(tag, int) and tag >= 0]
    named = [line.name for line, tag in zip(lines, tags, strict=True) if isinstance(tag, str)]
    together = (
        len(set(zip(tags, parents, strict=True))) == len(set(tags)) == len(set(parents)) > 1 and "" not in parents
    )
    if len(named) == len(lines):
        return by_folder if together else _by_name(file, named, parents)
    if all(is_wnid(parent) for parent in parents):
        return by_folder
    if len(numbered) < len(lines):
        unlabelled = all(tag is None for tag in tags)
        return by_folder if unlabelled and "" not in parents and len(set(parents)) > 1 else None
    if index_keys and max(numbered) < len(index_keys):
        return _Keyed([index_keys[label] for label in numbered], "place in the class list", {})
    listed = read_class_list(class_names, keys=sorted(set(parents))) if class_names else None
    entries = names_by_label(listed, numbered) if listed else None
    if together:
        known = Known(parents)
        if listed is None or entries is None or any(entry.key in known for entry in listed.entries):
            return by_folder
        names = {parent: entries[label].name for label, parent in zip(numbered, parents, strict=True)}
        return _Keyed(parents, "class folder", names, class_names, listed.decisions)
    if listed is not None and entries is not None:
        keys = [entries[label].key or f"{label:05d}" for label in numbered]
        names = dict(zip(keys, (entries[label].name for label in numbered), strict=True))
        ends = [f"{label} is {entries[label].name!r}" for label in sorted({min(numbered), max(numbered)})]
        text = f"Labels of {file} are named by {class_names}: {', '.join(ends)}."
        decision = Decision("class-names", text, {"file": str(class_names), "labels": [min(numbered), max(numbered)]})
        return _Keyed(keys, f"the names in {class_names}", names, class_names, (*listed.decisions, decision))
    wnids = imagenet_wnids()
    if all("ILSVRC2012_val_" in line.path for line in lines) and max(numbered) < len(wnids):
        return _Keyed([wnids[label] for label in numbered], "ImageNet-1k index", {})
    if all(line.name for line in lines):
        keys = [f"{label:05d}" for label in numbered]
        names = {key: _spoken(line.name) for key, line in zip(keys, lines, strict=True)}
        return _Keyed(keys, "label number", names)
    return None


def _class_folder(path: str) -> str:
    """Return the folder of an image; empty if the image is inside a container file."""
    name = PurePosixPath(path).parent.name
    return "" if name.lower().endswith(PACKED_SUFFIXES) else name


def _by_name(file: Path, names: Sequence[str], parents: Sequence[str]) -> _Keyed:
    """Key the classes by the names in the list; different spellings of a name are one class."""
    first: dict[str, str] = {}
    keys = [first.setdefault(fold(name), name) for name in names]
    decisions = []
    spellings = sorted({name for name, key in zip(names, keys, strict=True) if name != key})
    if spellings:
        text = f"{len(spellings)} names in {file} were read as other spellings of a class: {some_of(spellings)}."
        decisions.append(Decision("class-names", text, {"file": str(file), "spellings": spellings}))
    if "" not in parents and len(set(parents)) > 1 and {fold(p) for p in parents} != set(first):
        folders = some_of(sorted(set(parents)), 3)
        text = f"The classes of {file} come from its labels, not from the folders of the images ({folders})."
        decisions.append(Decision("class-names", text, {"file": str(file), "classes": "labels"}))
    return _Keyed(keys, "name in the list", {key: _spoken(key) for key in first.values()}, decisions=tuple(decisions))


def _spoken(name: str) -> str:
    """Return a class name of a list as words: those of a wnid, else with spaces instead of underscores."""
    return class_label(name).name if is_wnid(name) else clean(name if " " in name else name.replace("_", " ")) or name


def _check_names(file: Path, lines: Sequence[Line]) -> None:
    """Check that no number has two names, and that no name consists of several names of the list.

    Raises:
        UsageError: there is such a number or name.
    """
    known = {line.name for line in lines} - {""}
    # ImageNet has the classes "missile" and "projectile, missile", so a comma may also separate synonyms.
    for separator, enough in (("|", any), (";", any), (",", all)):
        for name in known:
            parts = [part.strip() for part in name.split(separator)]
            if len(parts) > 1 and enough(part in known for part in parts):
                raise UsageError(
                    f"{file} gives an image several labels, {name!r}; {some_of(parts)} are separate classes. Keep one class "
                    "for each image."
                )
    names: dict[int, str] = {}
    for line in lines:
        if line.label is None or line.label < 0 or not line.name:
            continue
        name = names.setdefault(line.label, line.name)
        if fold(name) != fold(line.name):
            raise UsageError(f"{file}: class {line.label} has two names, {name!r} and {line.name!r}. Keep one.")


def _repeats(file: Path, by_class: dict[str, set[str]], count: int, role: Role) -> list[Decision]:
    """Report images that are listed more than once.

    Raises:
        UsageError: an image is listed with two classes, and the role is not "ood".
    """
    different = sum(map(len, by_class.values()))
    times = Counter(path for paths in by_class.values() for path in paths)
    twice = sorted(path for path, n in times.items() if n > 1)
    if twice and role != "ood":
        classes = sorted(key for key, paths in by_class.items() if twice[0] in paths)
        raise UsageError(
            f"{file} lists {len(twice)} images with several classes; {twice[0]!r} is in {some_of(classes)}. Keep one class "
            "for each image, or remove such images."
        )
    if different == count:
        return []
    facts = {"file": str(file), "files": count - different, "reason": "listed before"}
    return [
        Decision(
            "files-left-out", f"{count - different} lines of {file} repeat an image; each image is used once.", facts
        )
    ]


def _of_role(listed: ImageList, role: Role, left_out: LeftOut) -> Iterator[Line]:
    """Yield the lines whose labels are for `role`, without files made by systems."""
    ood = _PROTOCOL_OOD if listed.protocol else _OOD
    if role != "ood":
        wanted = [line for line in listed.lines if line.label is None or line.label >= 0]
    elif not (wanted := [line for line in listed.lines if line.label == ood]):
        wanted = [line for line in listed.lines if not (listed.protocol and line.label == _PROTOCOL_IGNORED)]
    for line in wanted:
        if pattern := system_part(line.path):
            left_out.add("system", pattern, line.path)
        else:
            yield line


def _part_of_role(
    listed: ImageList, lines: list[Line], role: Role, kind: Literal["train", "eval"] | None
) -> tuple[list[Line], bool, list[Decision]]:
    """Return the lines for `role`, whether the list has parts, and decisions about them.

    Parts are those that the list names, else the folders train and val (or test) of the images. CoOp's split files are
    evaluated on test, as in CoOp; other lists are evaluated on val if there is one, like folders.

    Raises:
        UsageError: the list has parts, or its name says a part, but none of them is for this role.
    """
    file = Path(listed.source)
    parts: list[Part | None] = [line.part for line in lines]
    if not any(parts):
        if kind is not None and role in ("train", "eval") and role != kind:
            words = "training" if kind == "train" else "evaluation"
            raise UsageError(
                f"The name of {file} says that it lists {words} images. Give the other list, or rename this one."
            )
        folders = [_part_of_path(line.path) for line in lines]
        if not {"train", "eval"} <= {
            None if part is None else "train" if part == "train" else "eval" for part in folders
        }:
            return lines, False, []
        wanted = {"train"} if role == "train" else {"val", "test"}
        return [line for line, part in zip(lines, folders, strict=True) if part in wanted], True, []
    counts = Counter(part or "no part" for part in parts)
    order: tuple[Part, ...] = ("test", "val") if listed.form.startswith("split file") else ("val", "test")
    evaluation = next((part for part in order if counts[part]), None)
    part: Part | None = "train" if role == "train" else evaluation
    if role == "ood" and evaluation is None:
        return lines, True, []
    if part is None or not counts[part]:
        raise UsageError(f"{file} has no {ROLES[role]}: its parts are {some_of(sorted(counts))}.")
    counted = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    text = f"{file} names the parts of its images ({counted}); the {ROLES[role]} are those of {part}."
    facts = {"file": str(file), "parts": dict(counts), "role": role, "part": part}
    return [line for line in lines if line.part == part], True, [Decision("split", text, facts)]


def _part_of_path(path: str) -> Part | None:
    """Return the part of the nearest split folder above an image, at most three levels up; None without one."""
    return next((part for name in path.split("/")[-2:-5:-1] if (part := part_named(name))), None)
