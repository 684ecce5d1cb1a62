"""Match the names of a class list to class folders, or to the labels of an image list.

A list with wnids, folder names or codes is matched by these. A list that has only names must have exactly one for each
class; they are assigned in the sorted order of the folders, or by number if all folders are numbers. If another order is
plausible, or a name is that of another folder, the list is refused. `folder name` lines are always unambiguous.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from negprompt_cli.data.sets.class_forms import ClassEntry
from negprompt_cli.data.sets.class_list import ClassList, read_class_list
from negprompt_cli.data.sets.classnames import is_wnid, words
from negprompt_cli.data.sets.matching import Known, fold
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError, did_you_mean

_NUMBER = re.compile(r"[0-9]{1,18}")
_KEYED = "Write 'folder name' on each line: the folder's name, a TAB, the class name."


@dataclass(frozen=True)
class NamedKeys:
    """Names by class key, and decisions."""

    names: dict[str, str]
    decisions: tuple[Decision, ...]


def read_class_names(path: Path, keys: Sequence[str]) -> NamedKeys:
    """Read a file of class names for the class folders `keys`.

    Args:
        path: a class list in any form; if it has wnids or folders, it may name more classes than `keys`.
        keys: the sorted class list.

    Raises:
        UsageError: the file is unreadable or has an unknown form, or its names cannot be matched to these classes.
    """
    return name_keys(read_class_list(path, keys=keys), keys)


def name_keys(listed: ClassList, keys: Sequence[str]) -> NamedKeys:
    """Match the names of a class list to `keys`; errors are those of `read_class_names`."""
    if any(entry.key for entry in listed.entries):
        names = _by_key(listed, keys)
        if names or not _fits_in_order(listed, keys):
            return _named(listed, keys, names, "by their folder names")
    if any(entry.index is not None for entry in listed.entries):
        return _by_number(listed, keys)
    return _by_order(listed, keys)


def name_numbered(keys: Sequence[str]) -> NamedKeys:
    """Return names without numbers if all folders are numbered from 0 or 1 up, such as 001.Black_footed_Albatross.

    Empty if the folders are not numbered, or if only the numbers distinguish them ("type 1", "type 2").
    """
    matches = [re.fullmatch(r"([0-9]{1,6})[._\- ]+(.*[^\W\d].*)", key) for key in keys]
    numbers = sorted(int(match[1]) for match in matches if match)
    names = {key: words(match[2]) for key, match in zip(keys, matches, strict=True) if match}
    if len(keys) < 2 or len(set(map(fold, names.values()))) < len(keys):
        return NamedKeys({}, ())
    if numbers not in (list(range(len(keys))), list(range(1, len(keys) + 1))):
        return NamedKeys({}, ())
    text = f"Numbers before the names of folders were removed: {keys[0]!r} became {names[keys[0]]!r}."
    return NamedKeys(names, (Decision("class-names", text, {"numbers": "left out", "folders": len(keys)}),))


def names_by_label(listed: ClassList, labels: Sequence[int]) -> dict[int, ClassEntry] | None:
    """Return the entry of each label of an image list: by its number, else by its position, counted from 0.

    Positions are counted from 1 if the labels run from 1 to the number of names. None if a label has no name.
    """
    used = set(labels)
    if all(entry.index is not None for entry in listed.entries):
        by_label = {entry.index: entry for entry in listed.entries if entry.index is not None}
    else:
        start = 1 if used and min(used) >= 1 and max(used) == len(listed) else 0
        by_label = dict(enumerate(listed.entries, start))
    return {label: by_label[label] for label in used} if used <= set(by_label) else None


def _by_key(listed: ClassList, keys: Sequence[str]) -> dict[str, str]:
    known = Known(keys)
    found = [(known.find(entry.key), entry.name) for entry in listed.entries]
    return {key: name for key, name in found if key is not None}


def _fits_in_order(listed: ClassList, keys: Sequence[str]) -> bool:
    return len(listed) == len(keys) and not any(map(is_wnid, keys))


def _by_number(listed: ClassList, keys: Sequence[str]) -> NamedKeys:
    by_number = {entry.index: entry.name for entry in listed.entries}
    if all(_NUMBER.fullmatch(key) for key in keys):
        if all(int(key) in by_number for key in keys):
            return _named(listed, keys, {key: by_number[int(key)] for key in keys}, "by the folders' numbers")
        missing = next(key for key in keys if int(key) not in by_number)
        numbers = f"{min(n for n in by_number if n is not None)} to {max(n for n in by_number if n is not None)}"
        raise UsageError(f"{listed.source} has classes {numbers}, but a folder is called {missing}. {_KEYED}")
    if len(listed) == len(keys):
        return _by_order(listed, keys)
    if all(entry.key == "" for entry in listed.entries) and (names := _by_name(listed, keys)):
        return _named(listed, keys, names, "by their names")
    raise _no_fit(listed, keys)


def _by_order(listed: ClassList, keys: Sequence[str]) -> NamedKeys:
    """Assign one name to each class in order, unless the names are those of the folders."""
    names = _by_name(listed, keys)
    if len(names) == len(keys):
        return _named(listed, keys, names, "by their names")
    numeric = all(_NUMBER.fullmatch(key) for key in keys)
    if len(listed) != len(keys):
        if numeric and (by_place := _by_place(listed, keys)):
            return by_place
        raise _no_fit(listed, keys)
    ordered = sorted(keys, key=int) if numeric else list(keys)
    if not numeric and ordered != sorted(keys, key=_natural):
        a, b = next((a, b) for a, b in zip(ordered, sorted(keys, key=_natural), strict=True) if a != b)
        raise UsageError(
            f"{listed.source} has one name per line, but the order of folders with numbers in their names is unclear: does "
            f"{a!r} or {b!r} come first? {_KEYED}"
        )
    owners = {name: key for key, name in names.items()}
    for place, entry in zip(ordered, listed.entries, strict=True):
        own = owners.get(entry.name, place)
        if own != place:
            raise UsageError(
                f"{listed.source}: by its position the name {entry.name!r} would belong to the folder {place!r}, but it is "
                f"the name of the folder {own!r}. {_KEYED}"
            )
    made = {key: entry.name for key, entry in zip(ordered, listed.entries, strict=True)}
    how = "in the order of the folders' numbers" if numeric else "in the sorted order of the folders"
    return _named(listed, keys, made, how, ordered)


def _by_name(listed: ClassList, keys: Sequence[str]) -> dict[str, str]:
    known = Known(keys)
    names: dict[str, str] = {}
    for entry in listed.entries:
        key = known.find(entry.text) or known.find(entry.name)
        if key is not None:
            names.setdefault(key, entry.name)
    return names


def _by_place(listed: ClassList, keys: Sequence[str]) -> NamedKeys | None:
    """Name folders that are some of the numbers of a longer list; None if it is unclear whether it counts from 0 or 1."""
    numbers = [int(key) for key in keys]
    start = 0 if 0 in numbers else 1 if max(numbers) == len(listed) else None
    if start is None or max(numbers) - start >= len(listed):
        return None
    names = {key: listed.entries[number - start].name for key, number in zip(keys, numbers, strict=True)}
    return _named(listed, keys, names, f"by the folders' numbers, the first line being {start}")


def _named(
    listed: ClassList, keys: Sequence[str], names: dict[str, str], how: str, ordered: Sequence[str] = ()
) -> NamedKeys:
    if not names:
        raise _no_fit(listed, keys)
    pairs = [(key, names[key]) for key in ordered or keys if key in names]
    first, last = (f"{key} = {name!r}" for key, name in (pairs[0], pairs[-1]))
    text = f"Class names from {listed.source}, {how}: {len(pairs)} of {len(keys)} classes, first {first}, last {last}."
    facts = {"file": listed.source, "matched": how, "pairs": [list(pair) for pair in pairs]}
    return NamedKeys(names, (*listed.decisions, Decision("class-names", text, facts)))


def _no_fit(listed: ClassList, keys: Sequence[str]) -> UsageError:
    first = listed.entries[0]
    hint = did_you_mean((first.key or first.text.split()[0])[:100], keys) if len(keys) <= 1000 else ""
    return UsageError(
        f"{listed.source}: none of its {len(listed)} classes ({listed.form}) matches one of the {len(keys)} class folders. "
        f"{_KEYED} Or give exactly one name per class, in the order of the folders.{hint}"
    )


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that orders numbers by value, as file managers do, and other text by code point."""
    parts = (part for part in re.split(r"([0-9]+)", text) if part)
    numbers = ((part, part.lstrip("0") if part[0] in "0123456789" else None) for part in parts)
    return [(1, 0, part) if number is None else (0, len(number), number) for part, number in numbers]
