"""Parse a data set SPEC, `NAME_OR_PATH[#SELECTOR]`, and comma-separated lists of SPECs.

The selector is either index ranges into the sorted class list, both ends included (`0-99,120`), or a file of class folder
names in any form that `class_list` reads. This module handles the text only; `imagesets` finds the images.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from negprompt_cli.data.sets.matching import Known
from negprompt_cli.errors import UsageError, did_you_mean
from negprompt_cli.wording import some_of

_RANGE = re.compile(r"\s*([0-9]{1,18})(?:\s*-\s*([0-9]{1,18}))?\s*")


@dataclass(frozen=True)
class Spec:
    """A parsed SPEC: `base` is a catalogue name or a path, `selector` is empty if none was given."""

    text: str
    base: str
    selector: str

    @property
    def by_index(self) -> bool:
        """Whether the selector consists of index ranges (otherwise it names a file)."""
        return bool(self.selector) and all(_RANGE.fullmatch(part) for part in self.selector.split(","))

    @property
    def label(self) -> str:
        """The selector as a short suffix for names of runs and rows: `#0-99`, `#known` for a file, or nothing."""
        if not self.selector:
            return ""
        return "#" + (self.selector.replace(" ", "") if self.by_index else Path(self.selector).stem)


def parse_spec(text: str) -> Spec:
    """Parse one SPEC. A path that exists as typed is not split at a '#' in it.

    Raises:
        UsageError: there is nothing before or after the '#'.
    """
    stripped = text if text.strip() and exists(user_path(text)) else text.strip()
    if "#" not in stripped or exists(user_path(stripped)):
        if not stripped:
            raise UsageError(
                "The data set SPEC is empty. Give a name from the catalogue or a path.", remedy="list-sets"
            )
        return Spec(text=stripped, base=stripped, selector="")
    base, _, selector = stripped.rpartition("#")
    if not base.strip() or not selector.strip():
        raise UsageError(f"Data set SPEC {stripped!r}: write NAME#0-99,120 or NAME#FILE, with both sides of the '#'.")
    return Spec(text=stripped, base=base.strip(), selector=selector.strip())


def user_path(text: str) -> Path:
    """Return a path as typed, with ~ replaced by the home folder if that exists."""
    # `Path.expanduser` raises if there is no home folder, and `os.path.expanduser` if the text has NUL.
    return Path(text if "\0" in text else os.path.expanduser(text))  # noqa: PTH111


def exists(path: Path) -> bool:
    """Whether a path exists; unlike `Path.exists`, this never raises for invalid paths."""
    return os.path.exists(path)  # noqa: PTH110


def split_specs(text: str) -> list[Spec]:
    """Parse a comma-separated list of SPECs: `a#0-4,7,b` is `a#0-4,7` and `b`.

    An item that is only an index range continues the previous item's selector, if that consists of index ranges. A folder
    whose name is a number is written `./7`. A path that exists as typed is not split at its commas.

    Raises:
        UsageError: the list is empty, or an item is not a SPEC.
    """
    if exists(user_path(text)) or exists(user_path(text.strip())):
        return [parse_spec(text)]
    specs: list[Spec] = []
    # A comma between braces belongs to a pattern of files.
    for item in (part.strip() for part in re.split(r",(?![^{}]*\})", text)):
        if not item:
            continue
        if specs and _RANGE.fullmatch(item) and specs[-1].by_index:
            specs[-1] = parse_spec(f"{specs[-1].text},{item}")
        else:
            specs.append(parse_spec(item))
    if not specs:
        raise UsageError("The list of data sets is empty. Give SPECs separated by commas, for example inaturalist,dtd.")
    return specs


def parse_ranges(text: str, *, count: int, what: str) -> tuple[int, ...]:
    """Read index ranges such as `0-99,120` into sorted indices without repeats.

    Args:
        text: the ranges, both ends included, counted from 0.
        count: number of classes; every index must be below it.
        what: what has these classes, for the message.

    Raises:
        UsageError: the text has another form, a range runs backwards, or an index does not exist.
    """
    indices: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise UsageError(f"Class selector {text!r}: {part!r} is not an index or a range such as 0-99.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(
                f"Class selector {text!r}: the range {part.strip()} is empty. Write the lower number first."
            )
        if last >= count:
            raise UsageError(f"Class selector {text!r}: {what} has {count} classes, indices 0 to {count - 1}.")
        indices.update(range(first, last + 1))
    return tuple(sorted(indices))


def select_indices(spec: Spec, keys: Sequence[str], *, folders: Sequence[Path]) -> tuple[int, ...]:
    """Resolve the selector of `spec` to sorted indices into `keys`.

    Args:
        spec: the SPEC; without a selector every class is selected.
        keys: the sorted class list.
        folders: folders searched for a selector file after the working folder.

    Raises:
        UsageError: an index is out of range, the file does not exist, or a name in it is not a class (the message suggests
            the nearest one).
    """
    if not spec.selector:
        return tuple(range(len(keys)))
    if not keys:
        raise UsageError(f"{spec.base} has no classes, so the selector '#{spec.selector}' cannot be used. Remove it.")
    if spec.by_index:
        return parse_ranges(spec.selector, count=len(keys), what=spec.base)
    given = user_path(spec.selector)
    tried = [given] if given.is_absolute() else [given, *(folder / given for folder in folders)]
    file = next((path for path in tried if exists(path) and path.is_file()), None)
    if file is None:
        places = ", ".join(str(path) for path in tried)
        raise UsageError(
            f"Class selector {spec.selector!r} is neither index ranges (0-99,120) nor a file. Searched for {places}."
        )
    index = {key: i for i, key in enumerate(keys)}
    known = Known(keys)
    # Few SPECs name such a file, and importing its reader takes a while.
    from negprompt_cli.data.sets.class_list import read_class_list

    wanted = read_class_list(file, keys=keys).entries
    found = [next((key for text in (e.key, e.text, e.name) if (key := known.find(text))), None) for e in wanted]
    unknown = [entry.text for entry, key in zip(wanted, found, strict=True) if key is None]
    if unknown:
        shown = some_of([repr(name) for name in unknown], 1)
        raise UsageError(f"{file}: {shown} is not a class of {spec.base}.{did_you_mean(unknown[0], index)}")
    return tuple(sorted({index[key] for key in found if key is not None}))
