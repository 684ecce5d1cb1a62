"""Read class names from a file in any of the common forms.

    names            one per line, '#' comments; quoted, numbered ("1. cat") and bulleted lines too
    wnids            one WordNet id per line (timm's imagenet_synsets.txt); the words come from installed libraries
    key name         `wnid name` (CoOp's classnames.txt), `wnid index name` (map_clsloc.txt), `index name` (CUB's
                     classes.txt), `/a/name index` (Places365), or any key, a TAB and a name
    synset words     `wnid first synonym, second, ...` (Caffe's synset_words.txt); the first synonym is the name
    table            CSV or TSV; columns are recognised by the header, or without a header by their content
    JSON, YAML       a list; {index: name}, {index: [wnid, name]} (Keras), {name: index} (torchvision), {wnid: name}; a list
                     of records (COCO's categories); any of these below `names` (data.yaml), `id2label` (transformers), ...

Text that looks structured but has none of these forms is refused, never read as a name. `ClassList.decisions` records the
form, the order, omitted synonyms and underscores read as spaces.

`naming` decides which folder or label a name belongs to.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from negprompt_cli.data.files.textfile import read_stream, read_text
from negprompt_cli.data.sets.class_forms import NUMBERED, ClassEntry, indices, read_entries, refused
from negprompt_cli.data.sets.classnames import ClassLabel, class_label, is_wnid, synonym_texts
from negprompt_cli.data.sets.matching import clean
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

MAX_NAMES_BYTES = 16 << 20
"""Largest file of class names: enough for 160,000 classes of 100 bytes each."""

_REMARK = re.compile(r"\s#(\s.*|$)")
_MARKED = re.compile(r"([0-9]+|[-*+\u2022])\s")
"""The beginning of a name that may be a class number or a bullet."""
_PROMPT = re.compile(r"(a|an|the) (\w+ )?(photo|picture|image|photograph) of .*", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class ClassList:
    """Class names read from a file or given in Python, ordered by their numbers, or else in the original order."""

    source: str
    form: str
    entries: tuple[ClassEntry, ...]
    decisions: tuple[Decision, ...] = ()
    """First the form (kind `class-names-form`), then further decisions."""

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class NovelNames:
    """Distinct class names.

    `classes`: the classes in order. `decisions`: how the list was read, and which repeated names were dropped.
    """

    classes: tuple[ClassLabel, ...]
    decisions: tuple[Decision, ...] = ()


def read_class_list(source: Path | BinaryIO, where: str = "", *, keys: Sequence[str] = ()) -> ClassList:
    """Read a file of class names, or a pipe.

    Args:
        source: the file, or an open pipe.
        where: its name in messages, if `source` is a pipe.
        keys: folder names that lines may begin with, if they are known.

    Raises:
        UsageError: the text cannot be read, has no name, or looks structured but has no known form; the message says what
            was found and which forms are supported.
    """
    what = "a list of class names"
    if isinstance(source, Path):
        text = read_text(source, most=MAX_NAMES_BYTES, what=what)
        return parse_class_list(text, str(source), suffix=source.suffix, keys=keys)
    return parse_class_list(read_stream(source, where, most=MAX_NAMES_BYTES, what=what), where, keys=keys)


def parse_class_list(text: str, where: str, *, suffix: str = "", keys: Sequence[str] = ()) -> ClassList:
    """Read the text of a class list; errors are those of `read_class_list`.

    Args:
        text: the content.
        where: its name in messages.
        suffix: suffix of the file's name; without one the content decides the form.
        keys: folder names that lines may begin with.
    """
    if _CONTROL.search(text):
        raise UsageError(
            f"{where} contains control characters, so it is not a list of class names. Save it as UTF-8 text."
        )
    form, entries = read_entries(text, where, suffix=suffix.lower(), keys=keys)
    return _Names(where, entries).listed(form)


def given_names(names: Sequence[str], where: str = "the class names given") -> ClassList:
    """Make a class list of names given in Python; each name is used unchanged.

    Raises:
        UsageError: there are no names, or a name is empty or not a text.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UsageError("Give class names as a list of strings.")
    entries = tuple(ClassEntry(clean(name)) for name in names)
    if not entries or not all(entry.name for entry in entries):
        raise UsageError(
            f"{where}: {'a name is empty' if entries else 'there are none'}. Give at least one, none empty."
        )
    return ClassList(where, "names", entries)


def novel_names(listed: ClassList) -> NovelNames:
    """Return the distinct classes of a list; of names that differ only in case, the first is kept.

    Equal names with different wnids are different classes; ImageNet has two such pairs.
    """
    seen: dict[str, ClassLabel] = {}
    duplicates = []
    for entry in listed.entries:
        known = entry.wnid or entry.name.casefold()
        if known in seen:
            duplicates.append(entry.name)
        else:
            seen[known] = ClassLabel(entry.wnid or entry.name, entry.name, entry.wnid)
    decisions = listed.decisions
    if duplicates:
        text = f"{len(duplicates)} names given more than once were dropped: {some_of(duplicates)}."
        facts = {"classes": duplicates, "reason": "given more than once"}
        decisions = (*decisions, Decision("classes-left-out", text, facts, warning=True))
    return NovelNames(tuple(seen.values()), decisions)


def ordered_classes(listed: ClassList) -> tuple[ClassLabel, ...]:
    """Return the classes of a list in label order. Equal names get different keys: the wnid, or the name and a number."""
    seen: Counter[str] = Counter()
    classes = []
    for entry in listed.entries:
        key = entry.wnid or entry.name
        seen[key] += 1
        classes.append(ClassLabel(key if seen[key] == 1 else f"{key} ({seen[key]})", entry.name, entry.wnid))
    return tuple(classes)


@dataclass
class _Names:
    """Cleans and orders the names of a list, step by step, and records the decisions in `said`."""

    where: str
    entries: list[ClassEntry]
    said: list[Decision] = field(default_factory=list)

    def listed(self, form: str) -> ClassList:
        """Return the finished list.

        Raises:
            UsageError: a name is empty, a number or a key occurs twice, or a wnid is unknown.
        """
        self.entries = [ClassEntry(clean(_path_name(e.name)), e.key.strip(), e.index, e.name) for e in self.entries]
        empty = next((i for i, entry in enumerate(self.entries, 1) if not entry.name), None)
        if empty is not None or not self.entries:
            raise refused(self.where, f"Its class {empty} has an empty name." if empty else "It has no class names.")
        self._leave_out_remarks()
        self._take_wnids_in_front()
        self._check_keys()
        self._sort()
        self._leave_out_numbers()
        self._replace_wnids()
        self._take_first_synonyms()
        self._replace_underscores()
        self._say_odd()
        shown = [f"{e.id} = {e.name!r}" if e.id else repr(e.name) for e in (self.entries[0], self.entries[-1])]
        ends = {
            "first": [self.entries[0].id, self.entries[0].name],
            "last": [self.entries[-1].id, self.entries[-1].name],
        }
        facts = {"file": self.where, "form": form, "classes": len(self.entries), **ends}
        named = " to ".join(shown) if len(self.entries) > 1 else shown[0]
        line = f"Class names: {len(self.entries)} from {self.where} (form: {form}), {named}."
        return ClassList(self.where, form, tuple(self.entries), (Decision("class-names-form", line, facts), *self.said))

    def _say(self, text: str, **facts: Any) -> None:
        self.said.append(Decision("class-names", text, {"file": self.where, **facts}))

    def _rename(self, names: Sequence[str]) -> None:
        pairs = zip(self.entries, names, strict=True)
        self.entries = [entry if entry.name == name else replace(entry, name=name) for entry, name in pairs]

    @property
    def names(self) -> list[str]:
        """The names as they are now."""
        return [entry.name for entry in self.entries]

    def _leave_out_remarks(self) -> None:
        """Remove comments at the ends of names."""
        if changed := [name for name in self.names if "#" in name and _REMARK.search(name)]:
            text = f"Comments after # were removed from {len(changed)} names, such as {changed[0]!r}."
            self._say(text, comments_left_out=changed)
            self._rename([_REMARK.sub("", name) for name in self.names])

    def _take_wnids_in_front(self) -> None:
        """If all names begin with a wnid, use it as the key."""
        parts = [name.partition(" ") for name in self.names]
        if all(is_wnid(wnid) and name for wnid, _, name in parts) and not any(entry.key for entry in self.entries):
            pairs = zip(self.entries, parts, strict=True)
            self.entries = [replace(entry, name=name, key=wnid) for entry, (wnid, _, name) in pairs]

    def _check_keys(self) -> None:
        keys = Counter(entry.key for entry in self.entries if entry.key)
        if twice := next((key for key, count in keys.items() if count > 1), None):
            first, second, *_ = (entry.name for entry in self.entries if entry.key == twice)
            raise refused(
                self.where, f"It names class {twice!r} twice: {first[:100]!r} and {second[:100]!r}. Keep one."
            )

    def _sort(self) -> None:
        """Order the classes by their numbers, if they have any."""
        numbers = [entry.index for entry in self.entries if entry.index is not None]
        if not numbers:
            return
        if len(set(numbers)) < len(numbers):
            again = Counter(numbers).most_common(1)[0][0]
            raise refused(self.where, f"It has class number {again} twice. Keep one.")
        if numbers != sorted(numbers):
            self._say("The classes are ordered by their numbers, not in the order of the file.", ordered="by number")
        low, high = min(numbers), max(numbers)
        if high - low + 1 != len(numbers) or low > 1:
            text = (
                f"The class numbers run from {low} to {high}, but there are {len(numbers)} classes: some are missing."
            )
            self._say(text, lowest=low, highest=high)
        self.entries.sort(key=lambda entry: entry.index or 0)

    def _leave_out_numbers(self) -> None:
        """Remove numbers from names such as 001.Black_footed_Albatross if they are the numbers of the classes."""
        matches = [match for name in self.names if (match := NUMBERED.fullmatch(name))]
        numbers = indices([match[1] for match in matches]) if len(matches) == len(self.entries) else None
        if numbers is None or numbers != sorted(numbers) or any(map(is_wnid, self.names)):
            return
        text = f"Numbers before names were removed: {self.entries[0].name!r} became {matches[0][2]!r}."
        self._say(text, numbers="left out")
        self._rename([match[2] for match in matches])

    def _replace_wnids(self) -> None:
        """Replace wnids that are given as names by their words."""
        if not all(is_wnid(entry.name) and not entry.key for entry in self.entries):
            return
        self.entries = [replace(e, key=e.name, name=class_label(e.name).name) for e in self.entries]
        if unknown := [entry.key for entry in self.entries if entry.name == entry.key]:
            raise refused(
                self.where,
                f"No words are known for {len(unknown)} wnids: {some_of(unknown)}. Write 'wnid name' lines.",
            )
        self._say("The words of the wnids are those of ImageNet's usual prompts, or of WordNet.", words="by wnid")

    def _take_first_synonyms(self) -> None:
        """Keep the first of WordNet synonyms separated by commas, if entries have wnids or most names are synsets."""
        synsets = synonym_texts()
        commas = [name for name in self.names if "," in name]
        words = bool(commas) and 2 * sum(name in synsets for name in commas) >= len(commas)
        names: list[str] = []
        dropped: dict[str, str] = {}
        for entry in self.entries:
            first, comma, rest = (part.strip() for part in entry.name.partition(","))
            chosen = comma and first and (words or is_wnid(entry.key))
            dropped |= {first: rest} if chosen else {}
            names.append(first if chosen else entry.name)
        if dropped:
            shown = some_of([f"{first} (also {rest})" for first, rest in dropped.items()], 3)
            text = f"{len(dropped)} classes have synonyms; the first one is used as the name: {shown}."
            self._say(text, synonyms_left_out=dropped)
            self._rename(names)

    def _replace_underscores(self) -> None:
        """Replace underscores by spaces in names without spaces."""
        if changed := [name for name in self.names if "_" in name and " " not in name and name.strip("_")]:
            text = f"Underscores were read as spaces in {len(changed)} names: {some_of(changed)}."
            self._say(text, underscores=changed)
            chosen = set(changed)
            self._rename([clean(name.replace("_", " ")) if name in chosen else name for name in self.names])

    def _say_odd(self) -> None:
        """Record decisions about unusual names, which may be intended or a mistake."""
        names = self.names
        if commas := [name for name in names if "," in name or ";" in name]:
            shown = some_of(commas, 3)
            text = f"{len(commas)} names contain a comma and are kept whole: {shown}. Of synonyms, keep only one."
            self._say(text, with_commas=commas)
        if prompts := [name for name in names if _PROMPT.fullmatch(name)]:
            text = (
                f"{len(prompts)} names are whole prompts, such as {prompts[0]!r}. Prompt words are added to them again."
            )
            self._say(text, prompts=prompts)
        if len(names) > 1 and all(map(_MARKED.match, names)):
            text = (
                f"All names begin with a number or a mark, which becomes part of the prompts, such as {names[0]!r}. Remove "
                "it if it is not part of the name."
            )
            self._say(text, marked=names)


def _path_name(name: str) -> str:
    """Convert a class of Places365, which is written as a path (/a/apartment_building/outdoor), to words."""
    match = re.fullmatch(r"/[a-z]/(\S+)", name) if name.startswith("/") else None
    return match[1].replace("/", " ").replace("_", " ") if match else name
