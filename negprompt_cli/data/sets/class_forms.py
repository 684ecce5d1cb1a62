"""The forms of class lists: from text to class entries, before the names are cleaned.

`class_list` describes the forms. Text that looks structured but has none of them is refused, never read as a name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from negprompt_cli.data.files.textfile import content_lines, parse_json, parse_rows
from negprompt_cli.data.files.yamlfile import parse_yaml
from negprompt_cli.data.sets.classnames import is_wnid
from negprompt_cli.data.sets.columns import Columns
from negprompt_cli.data.sets.matching import Known, fold
from negprompt_cli.errors import UsageError

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
NUMBERED = re.compile(r"([0-9]{1,9})\s*(?:->|=>|[.):=\u2013-])\s*(\S.*)")
_CODE = re.compile(r"/[mg]/\w+")
"""The form of Freebase identifiers, which Open Images uses for its classes."""
_STRUCTURE = re.compile(r"[\[{<].*|.*[\]}>{\[,;:=]")
_SETTING = re.compile(r"[\w.-]+\s*[=:]\s.*|[\w.-]+\s*=.*")
_SEPARATORS = "\t;,|"
_NONE = "\x1f"
"""A separator that occurs in no text read here; it makes every line one cell."""
_HEADERS = ("name", "class", "label", "class_name", "classname")
"""First lines that are the header of a table with a single column."""
_KINDS = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


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
    def wnid(self) -> str | None:
        """The key if it is a wnid."""
        return self.key if is_wnid(self.key) else None

    @property
    def id(self) -> str:
        """The key or else the number of the class, for messages."""
        return self.key or ("" if self.index is None else str(self.index))


_Found = tuple[str, list[ClassEntry]]
"""The form of a list, and its entries as written."""


def read_entries(text: str, where: str, *, suffix: str, keys: Sequence[str]) -> _Found:
    """Return the form of a class list, and its entries as written; arguments and errors as for `parse_class_list`."""
    reader = _Reader(where, Known(keys))
    lines = content_lines(text)
    if not lines:
        raise UsageError(f"{where} has no class names. Write one per line (lines that start with # are comments).")
    if keys and all(line in reader.known for line in lines):
        return "names of folders", [ClassEntry(line) for line in lines]
    if suffix in (".json", ".jsonl", ".ndjson") or lines[0][0] in "{[":
        return reader.json(text, lines)
    if suffix in (".yaml", ".yml"):
        return "YAML", reader.value(parse_yaml(text, where, texts=True))
    if re.fullmatch(r"- .*|[\w-]+:(\s.*)?|---", lines[0]) and (found := reader.maybe_yaml(text)) is not None:
        return "YAML", found
    return reader.lines(text, lines, table=suffix in (".csv", ".tsv", ".tab"))


def refused(where: str, problem: str) -> UsageError:
    """Make the error for a text that is not a class list."""
    return UsageError(f"{where}: {problem} Supported forms of class names: {FORMS}.")


class _Reader:
    """Reads one list. Every method returns entries or raises UsageError."""

    def __init__(self, where: str, known: Known) -> None:
        self.where, self.known = where, known

    def refuse(self, problem: str) -> UsageError:
        return refused(self.where, problem)

    def json(self, text: str, lines: Sequence[str]) -> _Found:
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
            rows = [[_text(cell) for cell in item] for item in value]
            if entries := self.assigned(rows):
                return entries
            raise self.refuse(f"Its rows have two cells, such as {rows[0]!r}, and neither is a wnid or a class number.")
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
        if values and all(isinstance(item, str | int) and not isinstance(item, bool) for item in values):
            if entries := self.assigned([[key, str(item)] for key, item in value.items()]):
                return entries
        elif (numbers := _all_indices(keys)) is not None:
            return [replace(self._named(item), index=number) for number, item in zip(numbers, values, strict=True)]
        elif keys and all(map(is_wnid, keys)):
            return [replace(self._named(item, wnid=key), key=key) for key, item in value.items()]
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

    def assigned(self, rows: Sequence[Sequence[str]]) -> list[ClassEntry]:
        """Read rows of two or three cells without a header: a name, with a class number, a key, or both, in any order.

        A column of keys has only wnids, only codes, or a known folder. Empty if it is unclear which column has the names.
        """
        columns = list(map(list, zip(*rows, strict=True)))
        numbers = [i for i, cells in enumerate(columns) if _all_indices(cells) is not None]
        index = numbers[0] if 0 < len(numbers) < len(columns) else None
        others = [i for i in range(len(columns)) if i != index]
        tests = (is_wnid, _CODE.fullmatch)
        coded = [i for test in tests for i in others if all(map(test, columns[i]))]
        coded += [i for i in others if any(cell in self.known for cell in columns[i])]
        key = coded[0] if coded and len(others) > 1 else None
        names = [i for i in others if i != key]
        if len(names) != 1:
            return []
        return [
            ClassEntry(
                row[names[0]], row[key] if key is not None else "", _number(row[index]) if index is not None else None
            )
            for row in rows
        ]

    def lines(self, text: str, lines: Sequence[str], *, table: bool) -> _Found:
        """Read text that is neither JSON nor YAML; return its form and its entries."""
        kind, rows = self._table(text, lines, table=table)
        found = (
            self._with_header(kind, rows)
            or self._tabbed(lines)
            or self._wnids_first(lines)
            or self._keyed(lines)
            or self._numbered(lines)
            or self._without_header(kind, rows)
        )
        if found:
            return found
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

    def _with_header(self, kind: str, rows: Sequence[Sequence[str]]) -> _Found | None:
        """Read a table whose first row names its columns."""
        cells = [cell for cell in rows[0] if cell] if len(rows) > 1 else []
        header = len(set(cells)) == len(cells) and not any(_INDEX.fullmatch(c) or c in self.known for c in cells)
        entries = self.table(rows[0], rows[1:]) if cells and header else None
        return None if entries is None else (f"{kind}, columns {', '.join(rows[0])[:100]}", entries)

    def _without_header(self, kind: str, rows: Sequence[Sequence[str]]) -> _Found | None:
        """Read a table by the content of its columns."""
        if not rows:
            return None
        if (count := len(rows[0])) == 1:
            return kind, [ClassEntry(row[0]) for row in rows]
        if len(rows) == 1:
            raise self.refuse(f"It is one line with {count} cells. Write one name per line.")
        if count < 4 and (entries := self.assigned(rows)):
            return f"{kind} without a header", entries
        raise self.refuse(
            f"Its rows have {count} cells, such as {rows[0]!r}, without a header, a wnid or a class number."
        )

    def _tabbed(self, lines: Sequence[str]) -> _Found | None:
        """Read lines of two cells with a TAB between them; if nothing shows which cell is the key, it is the first."""
        if not all(line.count("\t") == 1 for line in lines):
            return None
        rows = [[part.strip() for part in line.split("\t")] for line in lines]
        return "key name", self.assigned(rows) or [ClassEntry(name, key=key) for key, name in rows]

    def _table(self, text: str, lines: Sequence[str], *, table: bool) -> tuple[str, list[list[str]]]:
        """Read the text as a table with the first separator that gives all rows the same number of cells, at least two.

        A table may have a single column if the file's suffix or its first line says that it is a table. No rows if the text
        is not a table.
        """
        if hint := re.match(r"sep=(.)\n", text):  # the first line that Excel reads
            text, lines, table = text[hint.end() :], lines[1:], True
        if not lines:
            return "", []
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
                return f"table with {'TAB' if separator == chr(9) else repr(separator)} between cells", rows
            if width == 1 and separator == _NONE and not problem:
                return "column", rows
            if width > 1:
                problem = f"Its rows have different numbers of cells ({rows[0]!r} has {width})."
        if table and problem:
            raise self.refuse(problem)
        return "", []

    def _wnids_first(self, lines: Sequence[str]) -> _Found | None:
        """Read lines that all begin with a wnid."""
        if all(is_wnid(line) for line in lines):
            return "wnids", [ClassEntry(line) for line in lines]
        parts = [line.split(None, 2) for line in lines]
        if not all(is_wnid(first) and rest for first, *rest in parts):
            return None
        numbers = indices([part[1] for part in parts]) if all(len(part) == 3 for part in parts) else None
        if numbers is not None:
            rows = zip(parts, numbers, strict=True)
            return "wnid index name", [ClassEntry(name, key=key, index=number) for (key, _, name), number in rows]
        entries = [ClassEntry(name, key=key) for key, name in (line.split(None, 1) for line in lines)]
        return ("synset words" if any("," in entry.name for entry in entries) else "key name"), entries

    def _numbered(self, lines: Sequence[str]) -> _Found | None:
        """Read lines that all begin or all end with a class number."""
        if NUMBERED.fullmatch(lines[0]):
            numbered = [match for line in lines if (match := NUMBERED.fullmatch(line))]
            numbers = indices([match[1] for match in numbered]) if len(numbered) == len(lines) else None
            if numbers is not None:
                entries = [ClassEntry(match[2], index=n) for match, n in zip(numbered, numbers, strict=True)]
                return "numbered names", entries
        for form, cut, key in (("index name", str.split, 0), ("name index", str.rsplit, 1)):
            if len(lines) == 1 or not _INDEX.fullmatch(cut(lines[0], None, 1)[-key]):
                continue
            parts = [cut(line, None, 1) for line in lines]
            numbers = indices([part[-key] for part in parts]) if all(len(part) == 2 for part in parts) else None
            names = [part[1 - key] for part in parts if len(part) == 2]
            if numbers is not None and len(set(names)) == len(names):  # "type 1", "type 2" are names
                return form, [ClassEntry(name, index=n) for name, n in zip(names, numbers, strict=True)]
        return None

    def _keyed(self, lines: Sequence[str]) -> _Found | None:
        """Read lines `folder name`. Folders may contain spaces, so the longest known one counts. None if no line fits."""
        longest = max((name.count(" ") for name in self.known.names), default=0)
        split = [self._key_and_name(line, longest) for line in lines]
        found = [entry for entry in split if entry is not None]
        if not found or _all_indices([entry.name for entry in found]) is not None:
            return None  # `folder number` lines have no names.
        if len(found) < len(lines) and not {fold(entry.key) for entry in found} >= set(map(fold, self.known.names)):
            other = next(line for line, entry in zip(lines, split, strict=True) if entry is None)
            raise self.refuse(
                f"{len(found)} of {len(lines)} lines begin with a folder name, but {other[:100]!r} does not. Write the "
                "folder's name, a TAB and the class name on every line."
            )
        return "key name", found

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


def indices(texts: Sequence[str]) -> list[int] | None:
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
    return "nothing" if value is None or value in ([], {}) else _KINDS.get(type(value), type(value).__name__)
