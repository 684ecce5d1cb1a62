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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from negprompt_cli.data.files.textfile import content_lines, parse_json, parse_rows, read_stream, read_text
from negprompt_cli.data.files.yamlfile import parse_yaml
from negprompt_cli.data.sets.classnames import ClassLabel, class_label, is_wnid, synonym_texts
from negprompt_cli.data.sets.columns import Columns
from negprompt_cli.data.sets.matching import Known, clean, fold
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

MAX_NAMES_BYTES = 16 << 20
"""Largest file of class names: enough for 160,000 classes of 100 bytes each."""

FORMS = (
    "one name per line, 'key name' lines (wnid or index first), synset_words.txt, a CSV file with a header such as "
    'id,name, a JSON list or index ({"0": "cat"}), or YAML with a list of names'
)
"""The supported forms, for messages."""

_NAME_COLUMNS = (
    *("name", "displayname", "classname", "labelname", "categoryname", "classlabel", "class", "label"),
    *("category", "species", "breed", "words", "text", "title", "names", "classes", "labels"),
)
_INDEX_COLUMNS = (
    *("index", "idx", "classindex", "classidx", "classid"),
    *("labelid", "categoryid", "id", "number", "target"),
)
_KEY_COLUMNS = ("wnid", "synset", "synsetid", "wordnetid", "key", "folder", "directory", "code", "id", "label", "class")
_LISTS = (
    *("names", "classes", "class_names", "classnames", "label_names", "labels", "categories"),
    *("id2label", "idx_to_class", "idx2label", "idx2class", "class_to_idx", "label2id", "label2idx", "class2idx"),
)
_INDEX = re.compile(r"([0-9]{1,9})(?:\.0+)?")  # pandas writes numbers as 3.0 if some are missing
_NUMBERED = re.compile(r"([0-9]{1,9})\s*(?:->|=>|[.):=\u2013-])\s*(\S.*)")
_REMARK = re.compile(r"\s#(\s.*|$)")
_CODE = re.compile(r"/[mg]/\w+")
"""The form of Freebase identifiers, which Open Images uses for its classes."""
_STRUCTURE = re.compile(r"[\[{<].*|.*[\]}>{\[,;:=]")
_SETTING = re.compile(r"[\w.-]+\s*[=:]\s.*|[\w.-]+\s*=.*")
_MARKED = re.compile(r"([0-9]+|[-*+\u2022])\s")
"""The beginning of a name that may be a class number or a bullet."""
_PROMPT = re.compile(r"(a|an|the) (\w+ )?(photo|picture|image|photograph) of .*", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SEPARATORS = "\t;,|"
_NONE = "\x1f"
"""A separator that occurs in no text read here; it makes every line one cell."""
_HEADERS = ("name", "class", "label", "class_name", "classname")
"""First lines that are the header of a table with a single column."""


@dataclass(frozen=True, slots=True)
class ClassEntry:
    """One class as written in a file."""

    name: str
    """The words; never empty."""
    key: str = ""
    """wnid, folder or code, if the file has one."""
    index: int | None = None
    """The number of the class, if the file has one."""
    text: str = ""
    """The name as written in the file, before cleaning and shortening."""

    @property
    def id(self) -> str:
        """The key or else the number of the class, for messages."""
        return self.key or ("" if self.index is None else str(self.index))


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
    reader = _Reader(where, Known(keys))
    lines = content_lines(text)
    if not lines:
        raise UsageError(f"{where} has no class names. Write one per line (lines that start with # are comments).")
    if keys and all(line in reader.known for line in lines):
        return reader.finish("names of folders", [ClassEntry(line) for line in lines])
    suffix = suffix.lower()
    if suffix in (".json", ".jsonl", ".ndjson") or lines[0][0] in "{[":
        return reader.finish(*reader.json(text, lines))
    if suffix in (".yaml", ".yml"):
        return reader.finish("YAML", reader.value(parse_yaml(text, where, texts=True)))
    if re.fullmatch(r"- .*|[\w-]+:(\s.*)?|---", lines[0]) and (found := reader.maybe_yaml(text)) is not None:
        return reader.finish("YAML", found)
    return reader.finish(*reader.lines(text, lines, table=suffix in (".csv", ".tsv", ".tab")))


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
        wnid = entry.key if is_wnid(entry.key) else None
        known = wnid or entry.name.casefold()
        if known in seen:
            duplicates.append(entry.name)
        else:
            seen[known] = ClassLabel(wnid or entry.name, entry.name, wnid)
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
        wnid = entry.key if is_wnid(entry.key) else None
        key = wnid or entry.name
        seen[key] += 1
        classes.append(ClassLabel(key if seen[key] == 1 else f"{key} ({seen[key]})", entry.name, wnid))
    return tuple(classes)


class _Reader:
    """Reads one list. Every method returns entries or raises UsageError."""

    def __init__(self, where: str, known: Known) -> None:
        self.where, self.known = where, known

    def refuse(self, problem: str) -> UsageError:
        return UsageError(f"{self.where}: {problem} Supported forms of class names: {FORMS}.")

    def json(self, text: str, lines: Sequence[str]) -> tuple[str, list[ClassEntry]]:
        """Read JSON, JSON lines, or the literal of a Python dict or list (as YAML)."""
        try:
            value = parse_json(text, self.where)
        except UsageError as error:
            if len(lines) > 1 and all(line.startswith("{") and line.endswith("}") for line in lines):
                return "JSON lines", self.value([parse_json(line, self.where) for line in lines])
            found = self.maybe_yaml(text)
            if found is None:
                raise self.refuse(f"It looks like JSON, but {str(error).split(': ', 1)[-1]}") from None
            return "Python literal", found
        entries = self.value(value)
        return f"JSON {'list' if isinstance(value, list) else 'index'}", entries

    def maybe_yaml(self, text: str) -> list[ClassEntry] | None:
        """Return the entries of YAML text; None if it is not a YAML list or mapping of names."""
        try:
            value = parse_yaml(text, self.where, texts=True)
        except UsageError:
            return None
        return self.value(value) if isinstance(value, dict | list) else None

    def value(self, value: Any) -> list[ClassEntry]:
        """Return the entries of a JSON or YAML value."""
        if isinstance(value, Mapping):
            found = self._nested(value)
            return self._mapping(value) if found is None else found
        if not isinstance(value, list) or not value:
            raise self.refuse(f"It contains {_kind(value)}, not class names.")
        if all(isinstance(item, str) for item in value):
            return [ClassEntry(item) for item in value]
        if all(isinstance(item, Mapping) for item in value):
            return self._records(value)
        if all(isinstance(item, list) and len(item) == 2 for item in value):
            return self.pairs([[_text(cell) for cell in item] for item in value])
        odd = next(item for item in value if not isinstance(item, str))
        raise self.refuse(f"Its list contains {_kind(odd)} where a name should be.")

    def _nested(self, value: Mapping[Any, Any]) -> list[ClassEntry] | None:
        """Find the class list in a larger document: data.yaml, config.json of transformers, labels.json of FiftyOne, ..."""
        name = next((name for name in _LISTS if isinstance(value.get(name), list | Mapping)), None)
        if name is None:
            return None
        found = self.value(value[name])
        count = value.get("nc")
        if count is not None and str(count) != str(len(found)):
            raise self.refuse(f"It names {len(found)} classes, but says nc: {str(count)[:20]}.")
        return found

    def _mapping(self, value: Mapping[Any, Any]) -> list[ClassEntry]:
        keys, values = list(value), list(value.values())
        if not all(isinstance(key, str) for key in keys):
            raise self.refuse("Its keys are not texts.")
        numbers, numbered = _all_indices(keys), _all_indices(values)
        if numbers is not None and numbered is None:
            return [replace(self._named(item), index=number) for number, item in zip(numbers, values, strict=True)]
        if numbered is not None and numbers is None:
            return [ClassEntry(key, index=number) for key, number in zip(keys, numbered, strict=True)]
        if keys and all(is_wnid(key) for key in keys):
            return [replace(self._named(item, wnid=key), key=key) for key, item in value.items()]
        if keys and all(isinstance(item, str) for item in values):
            if all(is_wnid(item) for item in values):
                return [ClassEntry(key, key=item) for key, item in value.items()]
            if any(key in self.known for key in keys):
                return [ClassEntry(item, key=key) for key, item in value.items()]
        shown = ", ".join(repr(key[:40]) for key in keys[:3])
        raise self.refuse(f"It maps {shown or 'nothing'} to values, and neither side has class numbers or wnids.")

    def _named(self, item: Any, wnid: str = "") -> ClassEntry:
        """Read the value of one class in an index: a name, [wnid, name], or a record."""
        if isinstance(item, str):
            return ClassEntry(item)
        if isinstance(item, Mapping):
            return self._records([item])[0]
        texts = [text for text in item if isinstance(text, str)] if isinstance(item, list) else []
        if len(texts) == 2 and is_wnid(texts[0]):
            return ClassEntry(texts[1], key=texts[0])
        if texts and wnid and len(texts) == len(item):
            return ClassEntry(", ".join(texts))
        raise self.refuse(f"It has {_kind(item)} where a class name should be.")

    def _records(self, records: Sequence[Mapping[Any, Any]]) -> list[ClassEntry]:
        header = list(dict.fromkeys(str(key) for record in records for key in record))
        rows = [[_text(record.get(name, "")) for name in header] for record in records]
        found = self.table(header, rows)
        if found is None:
            raise self.refuse(f"Its records have the fields {', '.join(header)[:100]}, none of which names a class.")
        return found

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[ClassEntry] | None:
        """Read a table by the names of its columns; return None if no column has class names."""
        full = [[*row, *([""] * (len(header) - len(row)))] for row in rows]
        columns = Columns(header, full)
        name = columns.pick(_NAME_COLUMNS, lambda texts: _all_indices(texts) is None)
        if name is None:
            return None
        index = columns.pick((*_INDEX_COLUMNS, *_KEY_COLUMNS), lambda texts: _all_indices(texts) is not None, {name})
        key = columns.pick(_KEY_COLUMNS, lambda texts: _all_indices(texts) is None and all(texts), {name})
        numbers = _all_indices(columns.cells(index)) if index is not None else None
        keys = columns.cells(key) if key is not None else [""] * len(full)
        return [
            ClassEntry(row[name], key=keys[i], index=None if numbers is None else numbers[i])
            for i, row in enumerate(full)
        ]

    def pairs(self, rows: Sequence[Sequence[str]], *, left: bool = False) -> list[ClassEntry]:
        """Read rows of two cells, one of them a wnid, class number or known folder; else with `left` the left is a key."""
        first, second = [row[0] for row in rows], [row[1] for row in rows]
        both = ((first, second), (second, first))
        for keys, names in both:
            numbers = _all_indices(keys)
            if numbers is not None and _all_indices(names) is None:
                return [ClassEntry(name, index=number) for number, name in zip(numbers, names, strict=True)]
        for keys, names in both:
            coded = all(map(is_wnid, keys)) or all(map(_CODE.fullmatch, keys))
            if coded or (any(key in self.known for key in keys) and not all(map(is_wnid, names))):
                return [ClassEntry(name, key=key) for key, name in zip(keys, names, strict=True)]
        if left:
            return [ClassEntry(name, key=key) for key, name in zip(first, second, strict=True)]
        raise self.refuse(f"Its rows have two cells, such as {rows[0]!r}, and neither is a wnid or a class number.")

    def lines(self, text: str, lines: Sequence[str], *, table: bool) -> tuple[str, list[ClassEntry]]:
        """Read text that is neither JSON nor YAML; return its form and its entries."""
        tables = self._tables(text, lines, table=table)
        for kind, rows in tables:
            cells = [cell for cell in rows[0] if cell]
            header = len(set(cells)) == len(cells) and not any(_INDEX.fullmatch(c) or c in self.known for c in cells)
            entries = self.table(rows[0], rows[1:]) if len(rows) > 1 and header else None
            if entries is not None:
                return f"{kind}, columns {', '.join(rows[0])[:100]}", entries
        if all(line.count("\t") == 1 for line in lines):
            return "key name", self.pairs([[part.strip() for part in line.split("\t")] for line in lines], left=True)
        if found := self._wnids_first(lines):
            return found
        if self.known.names and (entries := self._keyed(lines)):
            return "key name", entries
        if found := self._numbered(lines):
            return found
        for kind, rows in tables:
            if (count := len(rows[0])) == 1:
                return kind, [ClassEntry(row[0]) for row in rows]
            if len(rows) == 1:
                raise self.refuse(f"It is one line with {count} cells. Write one name per line.")
            if count == 2:
                return f"{kind} without a header", self.pairs(rows)
            if count == 3 and (entries := _triples(rows)):
                return f"{kind} without a header", entries
            raise self.refuse(
                f"Its rows have {count} cells, such as {rows[0]!r}, but there is no header that names them."
            )
        if lines[0][0] in "\"'" and all(unquoted := [_unquoted(line) for line in lines]):
            return "quoted names", [ClassEntry(name) for name in unquoted if name]
        odd = next((line for line in lines if _STRUCTURE.fullmatch(line) or "\t" in line), None)
        if odd is None and all(_SETTING.fullmatch(line) for line in lines):
            odd = lines[0]
        if odd is not None:
            raise self.refuse(f"The line {odd[:100]!r} looks structured but has no supported form.")
        led = ((line.partition(" "), line) for line in lines)  # a wnid in front of one name is a key, not a word of it
        return "names", [
            ClassEntry(b, key=a) if is_wnid(a) and b.strip() else ClassEntry(line) for (a, _, b), line in led
        ]

    def _tables(self, text: str, lines: Sequence[str], *, table: bool) -> list[tuple[str, list[list[str]]]]:
        """Read the text as a table with the first separator that gives all rows the same number of cells, at least two.

        A table may have a single column if the file's suffix or its first line says that it is a table.
        """
        if hint := re.match(r"sep=(.)\n", text):  # the first line that Excel reads
            text, lines, table = text[hint.end() :], lines[1:], True
        if not lines:
            return []
        separators = [separator for separator in (hint[1] if hint else _SEPARATORS) if separator in lines[0]]
        if table or lines[0].strip("\"'").casefold() in _HEADERS:
            separators.append(_NONE)
        problem = ""
        for separator in separators:
            try:
                rows = parse_rows(text, separator)
            except ValueError as error:
                problem = f"It cannot be read as a table: {error}."
                continue
            if rows and all(not row[-1] for row in rows):
                rows = [row[:-1] for row in rows]  # lines that end with the separator
            width = len(rows[0]) if rows else 0
            if width > 1 and all(len(row) == width for row in rows):
                return [(f"table with {'TAB' if separator == chr(9) else repr(separator)} between cells", rows)]
            if width == 1 and separator == _NONE and not problem:
                return [("column", rows)]
            if width > 1:
                problem = f"Its rows have different numbers of cells ({rows[0]!r} has {width})."
        if table and problem:
            raise self.refuse(problem)
        return []

    def _wnids_first(self, lines: Sequence[str]) -> tuple[str, list[ClassEntry]] | None:
        """Read lines that all begin with a wnid."""
        if all(is_wnid(line) for line in lines):
            return "wnids", [ClassEntry(line) for line in lines]
        if all(is_wnid(line.split(None, 1)[0]) and len(line.split(None, 1)) == 2 for line in lines):
            first = [line.split(None, 1) for line in lines]
            second = [name.split(None, 1) for _, name in first]
            numbers = _indices([parts[0] for parts in second]) if all(len(parts) == 2 for parts in second) else None
            if numbers is not None:
                rows = zip(first, second, numbers, strict=True)
                return "wnid index name", [ClassEntry(b[1], key=a[0], index=n) for a, b, n in rows]
            words = any("," in name for _, name in first)
            return ("synset words" if words else "key name"), [ClassEntry(name, key=key) for key, name in first]
        return None

    def _numbered(self, lines: Sequence[str]) -> tuple[str, list[ClassEntry]] | None:
        """Read lines that all begin or all end with a class number."""
        if _NUMBERED.fullmatch(lines[0]):
            numbered = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
            numbers = _indices([match[1] for match in numbered]) if len(numbered) == len(lines) else None
            if numbers is not None:
                entries = [ClassEntry(match[2], index=n) for match, n in zip(numbered, numbers, strict=True)]
                return "numbered names", entries
        for form, cut, key in (("index name", str.split, 0), ("name index", str.rsplit, 1)):
            if len(lines) == 1 or not _INDEX.fullmatch(cut(lines[0], None, 1)[-key]):
                continue
            parts = [cut(line, None, 1) for line in lines]
            numbers = _indices([part[-key] for part in parts]) if all(len(part) == 2 for part in parts) else None
            names = [part[1 - key] for part in parts if len(part) == 2]
            if numbers is not None and len(set(names)) == len(names):  # "type 1", "type 2" are names
                return form, [ClassEntry(name, index=n) for name, n in zip(names, numbers, strict=True)]
        return None

    def _keyed(self, lines: Sequence[str]) -> list[ClassEntry]:
        """Read lines `folder name`. Folders may contain spaces, so the longest known one counts. Empty if no line fits."""
        longest = max(name.count(" ") for name in self.known.names)
        split = [self._key_and_name(line, longest) if " " in line or "\t" in line else None for line in lines]
        found = [entry for entry in split if entry is not None]
        if found and _all_indices([entry.name for entry in found]) is not None:
            return []  # `folder number` lines have no names.
        if (
            not found
            or len(found) == len(lines)
            or {fold(entry.key) for entry in found} >= set(map(fold, self.known.names))
        ):
            return found
        other = next(line for line, entry in zip(lines, split, strict=True) if entry is None)
        raise self.refuse(
            f"{len(found)} of {len(lines)} lines begin with a folder name, but {other[:100]!r} does not. Write the folder's "
            "name, a TAB and the class name on every line."
        )

    def _key_and_name(self, line: str, longest: int) -> ClassEntry | None:
        if "\t" in line:
            key, _, name = (part.strip() for part in line.partition("\t"))
            return ClassEntry(name, key=key) if name and key in self.known else None
        parts = line.split(" ")
        for n in range(min(longest + 1, len(parts) - 1), 0, -1):
            key, name = " ".join(parts[:n]), " ".join(parts[n:]).strip()
            if key in self.known and name:
                return ClassEntry(name, key=key)
        return None

    def finish(self, form: str, entries: Sequence[ClassEntry]) -> ClassList:
        """Clean and order the names, and record the decisions."""
        said: list[tuple[str, dict[str, Any]]] = []
        entries = [
            ClassEntry(clean(_path_name(entry.name)), entry.key.strip(), entry.index, entry.name) for entry in entries
        ]
        if not entries or not all(entry.name for entry in entries):
            number = next((i for i, entry in enumerate(entries, 1) if not entry.name), 0)
            raise self.refuse(f"Its class {number} has an empty name." if entries else "It has no class names.")
        entries = _wnids_in_front(_without_remarks(entries, said))
        entries = self._in_order(entries, said)
        entries = _without_numbers(entries, said)
        entries = self._wnids(entries, said)
        entries = _first_synonyms(entries, said)
        entries = _spaces(entries, said)
        _say_odd(entries, said)
        decisions = [Decision("class-names", text, {"file": self.where, **facts}) for text, facts in said]
        first, last = entries[0], entries[-1]
        shown = [f"{e.id} = {e.name!r}" if e.id else repr(e.name) for e in (first, last)]
        facts: dict[str, Any] = {"file": self.where, "form": form, "classes": len(entries)}
        facts |= {"first": [first.id, first.name], "last": [last.id, last.name]}
        named = " to ".join(shown) if len(entries) > 1 else shown[0]
        line = f"Class names: {len(entries)} from {self.where} (form: {form}), {named}."
        return ClassList(self.where, form, tuple(entries), (Decision("class-names-form", line, facts), *decisions))

    def _in_order(self, entries: Sequence[ClassEntry], said: list[tuple[str, dict[str, Any]]]) -> list[ClassEntry]:
        numbers = [entry.index for entry in entries if entry.index is not None]
        keys = Counter(entry.key for entry in entries if entry.key)
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            names = [entry.name for entry in entries if entry.key == twice[0]]
            raise self.refuse(
                f"It names class {twice[0]!r} twice: {names[0][:100]!r} and {names[1][:100]!r}. Keep one."
            )
        if not numbers:
            return list(entries)
        if len(set(numbers)) < len(numbers):
            again = Counter(numbers).most_common(1)[0][0]
            raise self.refuse(f"It has class number {again} twice. Keep one.")
        if numbers != sorted(numbers):
            said.append(
                ("The classes are ordered by their numbers, not in the order of the file.", {"ordered": "by number"})
            )
        low, high = min(numbers), max(numbers)
        if high - low + 1 != len(numbers) or low > 1:
            text = (
                f"The class numbers run from {low} to {high}, but there are {len(numbers)} classes: some are missing."
            )
            said.append((text, {"lowest": low, "highest": high}))
        return sorted(entries, key=lambda entry: entry.index or 0)

    def _wnids(self, entries: Sequence[ClassEntry], said: list[tuple[str, dict[str, Any]]]) -> list[ClassEntry]:
        """Replace wnids that are given as names by their words."""
        if not all(is_wnid(entry.name) and not entry.key for entry in entries):
            return list(entries)
        made = [replace(entry, key=entry.name, name=class_label(entry.name).name) for entry in entries]
        unknown = [entry.key for entry in made if entry.name == entry.key]
        if unknown:
            raise self.refuse(
                f"No words are known for {len(unknown)} wnids: {some_of(unknown)}. Write 'wnid name' lines."
            )
        said.append(
            ("The words of the wnids are those of ImageNet's usual prompts, or of WordNet.", {"words": "by wnid"})
        )
        return made


def _triples(rows: Sequence[Sequence[str]]) -> list[ClassEntry]:
    """Read rows of a class number, a wnid and a name in any order; return nothing if they have another form."""
    columns = [[row[i] for row in rows] for i in range(3)]
    number = next((i for i in range(3) if _all_indices(columns[i]) is not None), None)
    key = next((i for i in range(3) if all(map(is_wnid, columns[i]))), None)
    if number is None or key is None:
        return []
    name = 3 - number - key
    return [ClassEntry(row[name], key=row[key], index=_number(row[number])) for row in rows]


def _without_remarks(entries: Sequence[ClassEntry], said: list[tuple[str, dict[str, Any]]]) -> list[ClassEntry]:
    """Remove comments at the ends of names."""
    changed = [entry.name for entry in entries if "#" in entry.name and _REMARK.search(entry.name)]
    if not changed:
        return list(entries)
    text = f"Comments after # were removed from {len(changed)} names, such as {changed[0]!r}."
    said.append((text, {"comments_left_out": changed}))
    return [replace(entry, name=_REMARK.sub("", entry.name)) for entry in entries]


def _wnids_in_front(entries: Sequence[ClassEntry]) -> list[ClassEntry]:
    """If all names begin with a wnid, use it as the key."""
    if any(entry.key or not is_wnid(entry.name.partition(" ")[0]) or " " not in entry.name for entry in entries):
        return list(entries)
    parts = [entry.name.partition(" ") for entry in entries]
    return [replace(entry, name=b, key=a) for entry, (a, _, b) in zip(entries, parts, strict=True)]


def _without_numbers(entries: Sequence[ClassEntry], said: list[tuple[str, dict[str, Any]]]) -> list[ClassEntry]:
    """Remove numbers from names such as 001.Black_footed_Albatross if they are the numbers of the classes."""
    matches = [_NUMBERED.fullmatch(entry.name) for entry in entries]
    numbers = _indices([match[1] for match in matches if match]) if all(matches) else None
    if numbers is None or numbers != sorted(numbers) or any(is_wnid(entry.name) for entry in entries):
        return list(entries)
    made = [replace(entry, name=match[2]) for entry, match in zip(entries, matches, strict=True) if match]
    said.append(
        (f"Numbers before names were removed: {entries[0].name!r} became {made[0].name!r}.", {"numbers": "left out"})
    )
    return made


def _first_synonyms(entries: Sequence[ClassEntry], said: list[tuple[str, dict[str, Any]]]) -> list[ClassEntry]:
    """Keep the first of WordNet synonyms separated by commas, if entries have wnids or most names are synsets."""
    synsets = synonym_texts()
    commas = [entry.name for entry in entries if "," in entry.name]
    words = bool(commas) and 2 * sum(name in synsets for name in commas) >= len(commas)
    made, dropped = [], {}
    for entry in entries:
        first, comma, rest = (part.strip() for part in entry.name.partition(","))
        if comma and first and (words or is_wnid(entry.key)):
            dropped[first] = rest
            entry = replace(entry, name=first)
        made.append(entry)
    if dropped:
        shown = some_of([f"{first} (also {rest})" for first, rest in dropped.items()], 3)
        text = f"{len(dropped)} classes have synonyms; the first one is used as the name: {shown}."
        said.append((text, {"synonyms_left_out": dropped}))
    return made


def _spaces(entries: Sequence[ClassEntry], said: list[tuple[str, dict[str, Any]]]) -> list[ClassEntry]:
    """Replace underscores by spaces."""
    changed = [entry.name for entry in entries if "_" in entry.name and " " not in entry.name and entry.name.strip("_")]
    if not changed:
        return list(entries)
    said.append(
        (f"Underscores were read as spaces in {len(changed)} names: {some_of(changed)}.", {"underscores": changed})
    )
    chosen = set(changed)
    return [
        replace(entry, name=clean(entry.name.replace("_", " "))) if entry.name in chosen else entry for entry in entries
    ]


def _say_odd(entries: Sequence[ClassEntry], said: list[tuple[str, dict[str, Any]]]) -> None:
    """Record decisions about unusual names, which may be intended or a mistake."""
    names = [entry.name for entry in entries]
    commas = [name for name in names if "," in name or ";" in name]
    if commas:
        text = (
            f"{len(commas)} names contain a comma and are kept whole: {some_of(commas, 3)}. Of synonyms, keep only one."
        )
        said.append((text, {"with_commas": commas}))
    prompts = [name for name in names if _PROMPT.fullmatch(name)]
    if prompts:
        text = f"{len(prompts)} names are whole prompts, such as {prompts[0]!r}. Prompt words are added to them again."
        said.append((text, {"prompts": prompts}))
    if len(names) > 1 and all(map(_MARKED.match, names)):
        text = (
            f"All names begin with a number or a mark, which becomes part of the prompts, such as {names[0]!r}. Remove it "
            "if it is not part of the name."
        )
        said.append((text, {"marked": names}))


def _path_name(name: str) -> str:
    """Convert a class of Places365, which is written as a path (/a/apartment_building/outdoor), to words."""
    match = re.fullmatch(r"/[a-z]/(\S+)", name) if name.startswith("/") else None
    return match[1].replace("/", " ").replace("_", " ") if match else name


def _indices(texts: Sequence[str]) -> list[int] | None:
    """Return texts as class numbers from 0 or 1 up without gaps, in any order; None if they are not."""
    numbers = _all_indices(texts)
    if numbers is None or sorted(numbers) not in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
        return None
    return numbers


def _all_indices(values: Sequence[Any]) -> list[int] | None:
    """Return values (numbers or texts) as class numbers from 0 up; None if one is something else."""
    made = []
    for value in values:
        number = _number(value)
        if number is None or number < 0:
            return None
        made.append(number)
    return made or None


def _number(value: Any) -> int | None:
    """Return a class number given as a number or a text; None if it is neither."""
    if isinstance(value, str):
        found = _INDEX.fullmatch(value)
        return int(found[1]) if found else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _unquoted(line: str) -> str:
    """Return the text of a line that is one quoted text, with or without a comma after it; else nothing."""
    match = re.fullmatch(r"""(["'])([^"']+|(?:(?!\1).)+)\1\s*,?""", line)
    return match[2].strip() if match else ""


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else "" if value is None or isinstance(value, bool) else str(value)


def _kind(value: Any) -> str:
    names = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return "nothing" if value is None or value in ([], {}) else names.get(type(value), type(value).__name__)
