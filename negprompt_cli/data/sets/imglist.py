"""Lists of images in a text file: imglists, plain lists of paths, and NegPrompt's protocol CSV files.

* imglist (OpenOOD, CoOp): `relative/path label` per line, split on the first space; -1 is OOD. Words after the label
  are the class's name.
* plain list: one path per line.
* protocol CSV (official NegPrompt; suffix .csv): `path,label` without a header; -1 is a known unknown, which is
  ignored, -2 is unknown, which is OOD.

Blank lines and '#' comments are skipped. A path may contain spaces where it ends in an image suffix.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from negprompt_cli.data.sets.class_list import read_class_list
from negprompt_cli.data.sets.classnames import imagenet_wnids, is_wnid
from negprompt_cli.data.sets.filekinds import LeftOut, image_suffixes, in_system_folder
from negprompt_cli.data.sets.layouts import Role, Source
from negprompt_cli.data.sets.matching import Known
from negprompt_cli.data.sets.naming import names_by_label
from negprompt_cli.data.sets.spec import exists, read_lines
from negprompt_cli.data.sets.torchsets import item_exists
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError

_LABEL = re.compile(r"[+-]?[0-9]{1,18}")
_FIRST_SPACE = re.compile(r"(\S+)\s+([+-]?[0-9]{1,18})(?:\s+(\S.*))?")
_OOD = -1
_CSV_IGNORED, _CSV_OOD = -1, -2
_PARENTS = 3  # how far above a list its images may be rooted


@dataclass(frozen=True)
class Line:
    """One image of a list; `label` is None where the line has none."""

    path: str
    label: int | None
    name: str = ""
    """The class's name, where the line gives it."""


@cache
def _listed() -> re.Pattern[str]:
    """A path that ends in an image suffix, a label, and words after it."""
    suffixes = "|".join(re.escape(suffix) for suffix in sorted(image_suffixes()))
    return re.compile(rf"(.+?(?:{suffixes}))\s+([+-]?[0-9]{{1,18}})(?:\s+(\S.*))?", re.IGNORECASE)


def parse_line(line: str) -> Line:
    """Parse one line of an imglist or of a plain list of paths.

    The path ends with the first image suffix that a label follows; a path without such a suffix ends at the first
    space.
    """
    match = _listed().fullmatch(line) or _FIRST_SPACE.fullmatch(line)
    if match is None:
        return Line(line, None)
    return Line(match[1], int(match[2]), (match[3] or "").strip())


def read_list(path: Path) -> list[Line]:
    """Read an imglist, a plain list or (by its suffix) a protocol CSV.

    Raises:
        UsageError: unreadable, empty, or a CSV line that is not `path,label`; names the line.
    """
    lines = read_lines(path)
    if not lines:
        raise UsageError(f"{path} lists no image. Write one path per line, with a label after a space if there is one.")
    if path.suffix.lower() != ".csv":
        return [parse_line(line) for line in lines]
    parsed = []
    for line in lines:
        name, _, label = line.rpartition(",")
        if not name or not _LABEL.fullmatch(label.strip()):
            raise UsageError(f"{path}: the line {line[:200]!r} is not 'path,label' (a protocol CSV has no header).")
        parsed.append(Line(name.strip().strip('"'), int(label)))
    return parsed


def format_list(paths: Sequence[str], labels: Sequence[int]) -> str:
    """Write an imglist, one `path label` per line, that `read_list` reads back as it was.

    Raises:
        UsageError: a path that no line can hold: with a line end, with a space at its beginning, not in UTF-8, ...
    """
    lines = []
    for path, label in zip(paths, labels, strict=True):
        line = f"{path} {label}"
        if not _reads_back(line, path, label):
            raise UsageError(f"An imglist cannot hold the file name {path!r}. Rename the file.")
        lines.append(f"{line}\n")
    return "".join(lines)


def _reads_back(line: str, path: str, label: int) -> bool:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    whole = not set("\n\r\0") & set(line) and line.strip() == line and not line.startswith("#")
    return whole and parse_line(line) == Line(path, label)


def list_source(
    file: Path,
    role: Role,
    *,
    data_root: Path,
    prefixes: Sequence[str] = (),
    root: Path | None = None,
    class_names: Path | None = None,
) -> Source:
    """The source of `role` from a list file.

    Images are looked for below `root` where it is given, otherwise below the list's own folder, the folders above it,
    the data root, and `prefixes` below that: the first under which the first image exists. Classes are keyed by the
    images' class folders where each label has its own; else by line `label` of `class_names`; else an ImageNet-1k label
    (names like ILSVRC2012_val_...) by wnid. A list without labels takes the class folders.

    For role "ood" images labelled OOD are taken where there are any, otherwise all; for the others images with a class.
    A list of images in train/ and in val/ (or test/) serves each role with its own. Otherwise a list with the word train,
    val or test in its name serves that role as a whole, and any other is to be halved.

    Raises:
        UsageError: nothing listed for the role, a list for the other role by its name, the first image is found nowhere
            (says where it was looked for), or labels that nothing names.
    """
    lines, left_out = _without_systems(read_list(file))
    ood = _CSV_OOD if file.suffix.lower() == ".csv" else _OOD
    chosen = [line for line in lines if _wanted(line, role, ood)]
    if role == "ood" and not chosen:
        chosen = [line for line in lines if file.suffix.lower() != ".csv" or line.label != _CSV_IGNORED]
    if not chosen:
        raise UsageError(f"{file} lists no image for {role}: all {len(lines)} labels are those of OOD images.")
    kind = list_part(file)
    if kind is not None and role in ("train", "eval") and role != kind:
        words = "training" if kind == "train" else "evaluation"
        raise UsageError(f"{file} is a list of {words} images by its name. Give the other list, or rename this one.")
    chosen, apart = _part_of_role(chosen, role)
    folder = root or _find_root(file, chosen[0].path, data_root, prefixes)
    layout = f"list {file} of images below {folder}"
    said = f"{file} lists {len(lines)} images; {len(chosen)} are for {role}"
    facts = {"file": str(file), "listed": len(lines), "used": len(chosen), "role": role}
    decisions = (Decision("files-left-out", said, facts),) if len(chosen) < len(lines) else ()
    keyed = _key_labels(chosen, class_names)
    if keyed is None and role != "ood":
        raise UsageError(
            f"{file} does not name its classes. Put the images of each class into a folder of its own, or name the "
            "classes in a file.",
            remedy="class-names",
        )
    halve = role != "ood" and not apart and kind is None
    if keyed is None:
        paths = sorted({line.path for line in chosen})
        why = f"{file} has no class labels"
        others = {"": left_out}
        return Source(folder, (), lambda _: paths, layout, {}, decisions=decisions, no_classes=why, left_out=others)
    by_class: dict[str, set[str]] = {}
    for key, line in zip(keyed.keys, chosen, strict=True):
        by_class.setdefault(key, set()).add(line.path)
    return Source(
        folder,
        tuple(sorted(by_class)),
        lambda key: sorted(by_class.get(key, ())),
        f"{layout}, classes by {keyed.kind}",
        keyed.names,
        halve=halve,
        decisions=(*decisions, *keyed.decisions),
        named_by=keyed.named_by,
        left_out={"": left_out},
    )


def _without_systems(lines: Sequence[Line]) -> tuple[list[Line], LeftOut]:
    """The lines without files that systems make, which a list of everything in a folder holds, and those files."""
    left_out = LeftOut()
    for line in lines:
        if in_system_folder(line.path):
            left_out.add("system", PurePosixPath(line.path).name, line.path)
    return [line for line in lines if not in_system_folder(line.path)], left_out


@dataclass(frozen=True)
class _Keyed:
    """The class key of each line, what the keys are, and names that came with them."""

    keys: list[str]
    kind: str
    names: dict[str, str]
    named_by: Path | None = None
    decisions: tuple[Decision, ...] = ()


def _key_labels(lines: Sequence[Line], class_names: Path | None) -> _Keyed | None:
    """Key the classes of `lines`; None where nothing tells the classes apart or nothing names them."""
    parents = [PurePosixPath(line.path).parent.name for line in lines]
    labels = [line.label for line in lines if line.label is not None and line.label >= 0]
    given = {parent: line.name for parent, line in zip(parents, lines, strict=True) if line.name}
    by_folder = _Keyed(parents, "class folder", given)
    if all(is_wnid(parent) for parent in parents):
        return by_folder
    if len(labels) < len(lines):
        unlabelled = all(line.label is None for line in lines)
        return by_folder if unlabelled and "" not in parents and len(set(parents)) > 1 else None
    pairs = set(zip(labels, parents, strict=True))
    listed = read_class_list(class_names, keys=sorted(set(parents))) if class_names else None
    named = names_by_label(listed, labels) if listed else None
    if len(pairs) == len(set(labels)) == len(set(parents)) > 1 and "" not in parents:
        known = Known(parents)
        if listed is None or named is None or any(entry.key in known for entry in listed.entries):
            return by_folder
        names = {parent: named[label].name for label, parent in pairs}
        return _Keyed(parents, "class folder", names, class_names, listed.decisions)
    if listed is not None and named is not None:
        keys = [named[label].key or f"{label:05d}" for label in labels]
        names = dict(zip(keys, (named[label].name for label in labels), strict=True))
        return _Keyed(keys, f"the names in {class_names}", names, class_names, listed.decisions)
    wnids = imagenet_wnids()
    if all("ILSVRC2012_val_" in line.path for line in lines) and max(labels) < len(wnids):
        return _Keyed([wnids[label] for label in labels], "ImageNet-1k index", {})
    if all(line.name for line in lines):
        keys = [f"{label:05d}" for label in labels]
        return _Keyed(keys, "label number", {key: line.name for key, line in zip(keys, lines, strict=True)})
    return None


def _wanted(line: Line, role: Role, ood: int) -> bool:
    return line.label == ood if role == "ood" else line.label is None or line.label >= 0


def list_part(file: Path) -> Literal["train", "eval"] | None:
    """Which part a list is for, by the words of its name: train_imagenet.txt, p1-val.csv."""
    tokens = set(re.findall("[a-z]+", file.stem.lower()))
    if "train" in tokens:
        return None if tokens & {"val", "test"} else "train"
    return "eval" if tokens & {"val", "test"} else None


def _part_of_role(lines: list[Line], role: Role) -> tuple[list[Line], bool]:
    """The lines for `role` where some images stand in train/ and others in val/ or test/, and whether they do."""
    parts = [_part_of_path(line.path) for line in lines]
    if not {"train", "eval"} <= set(parts):
        return lines, False
    wanted = "train" if role == "train" else "eval"
    return [line for line, part in zip(lines, parts, strict=True) if part == wanted], True


def _part_of_path(path: str) -> str | None:
    """The split folder nearest to an image, at most three levels up."""
    for name in path.split("/")[-2:-5:-1]:
        if name in ("train", "val", "test"):
            return "train" if name == "train" else "eval"
    return None


def _find_root(file: Path, first: str, data_root: Path, prefixes: Sequence[str]) -> Path:
    parent = file.absolute().parent
    folders = [parent, *list(parent.parents)[:_PARENTS], data_root, *(data_root / prefix for prefix in prefixes)]
    folders = list(dict.fromkeys(folders))
    found = next((folder for folder in folders if exists(folder / first) or item_exists(folder / first)), None)
    if found is None:
        places = "\n  ".join(str(folder / first[:200]) for folder in folders)
        raise UsageError(f"{file}: its first image is not found. Tried:\n  {places}\nGive the paths from one of these.")
    return found
