"""Read lists of images from a file in any of the common forms.

    lines          one image per line: a path, or a path and a label after a space, TAB, comma or semicolon. The label is a
                   number (imglist of OpenOOD and CoOp; words after it name the class) or the name of the class. A path that
                   ends in an image suffix, or is in quotes, may contain the separator. '#' begins a comment.
    protocol CSV   `path,label` without a header, as in the official NegPrompt code: -1 is a known unknown (ignored), -2 is
                   an unknown (OOD)
    table          CSV or TSV with a header; the columns of path, label, class name and part (train, val, test) are
                   recognised by their names
    JSON           records (a list, or JSON lines) with the same names; {path: label}; {class: [paths]}; CoOp's split files
                   {"train": [[path, label, name], ...], ...}; FiftyOne's labels.json beside a folder data/
    NUL            paths separated by NUL, as `find -print0` writes them

In all forms except the protocol CSV the label -1 means OOD. Lists in other forms are refused with a one-line message.

`imglist` finds the images and their class names.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote

from negprompt_cli.data.files.textfile import MAX_LIST_BYTES, content_lines, parse_json, parse_rows, read_text
from negprompt_cli.data.sets.columns import LABELS, Columns, class_columns, plain
from negprompt_cli.data.sets.filekinds import image_suffixes, is_image_name
from negprompt_cli.data.sets.parts import Part, part_named
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

MAX_JSON_BYTES = 256 << 20
"""Largest JSON list; reading it needs memory for all its objects."""

LIST_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".lst", ".list"})
"""Suffixes of files that may be lists, where images and lists are both possible."""

FORMS = (
    "one path per line, 'path label' lines with a space, TAB, comma or semicolon (the label a number or a class name), CSV "
    "with a header such as path,label, JSON lines with file_name and label, CoOp's split_*.json, or FiftyOne's labels.json"
)
"""The supported forms, for messages."""

_PATHS = (
    *("path", "filepath", "file", "filename", "image", "imagepath", "img", "imgpath", "imagefile", "imagename"),
    *("relpath", "relativepath", "uri", "url", "name", "imageid", "id"),
)
_PARTS = ("split", "set", "subset", "partition", "part", "phase")
_FLAGS: dict[str, tuple[Part, Part]] = {
    "isvalid": ("val", "train"),
    "isval": ("val", "train"),
    "istest": ("test", "train"),
    "istrain": ("train", "val"),
}
"""Columns of truth values that distinguish parts: the part of images with true, and that of images with false."""
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_BELOW = ("label", "name", "class", "path", "file_name", "filename", "filepath")
"""If the value of a field is an object, the field of it that is used."""
_LABEL = re.compile(r"([+-]?[0-9]{1,18})(?:\.0+)?")  # pandas writes numbers as 3.0 if some are missing
_FIRST_SPACE = re.compile(r"(\S+)\s+([+-]?[0-9]{1,18})(?:\s+(\S.*))?")
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f]")
_MISSING = frozenset({"nan", "NaN", "<NA>", "null", "NULL"})
"""Texts by which programs mark an empty cell."""
_SEPARATORS = {"\t": "a TAB", ",": "a comma", ";": "a semicolon", "|": "a bar"}
_LOOK = 1000
"""Number of lines examined to find the form."""


@dataclass(frozen=True, slots=True)
class Line:
    """One image of a list."""

    path: str
    label: int | None = None
    """The number of the class, -1 for OOD; None if there is none."""
    name: str = ""
    """The name of the class, if there is one."""
    part: Part | None = None
    """train, val or test, if the list says it."""


@dataclass(frozen=True)
class ImageList:
    """The images of a list, in its order."""

    source: str
    form: str
    lines: list[Line]
    protocol: bool = False
    """Whether the labels -1 and -2 mean what they do in the protocol CSV."""
    below: str = ""
    """The folder beside the list that paths are relative to, if the form defines one."""
    unclear: str = ""
    """Why images have no classes although some columns might contain them."""
    decisions: tuple[Decision, ...] = ()
    """First the form (kind `list-form`), then further decisions."""


def read_image_list(path: Path) -> ImageList:
    """Read a list of images.

    Raises:
        UsageError: the list is unreadable, empty, or in an unknown form; the message says what was found and which forms
            are supported.
    """
    suffix = path.suffix.lower()
    as_json = suffix in (".json", ".jsonl", ".ndjson")
    text = read_text(path, most=MAX_JSON_BYTES if as_json else MAX_LIST_BYTES, what="a list of images", nul=True)
    return parse_image_list(text, str(path), suffix=suffix)


def parse_image_list(text: str, where: str, *, suffix: str = "") -> ImageList:
    """Read the text of a list of images.

    Args:
        text: the content.
        where: its name in messages.
        suffix: suffix of the file's name, in lower case.

    Raises:
        UsageError: as `read_image_list`.
    """
    if "\0" in text:
        if _CONTROL.search(text):
            raise UsageError(f"{where} is not a list of images: it contains NUL and other control characters.")
        names = [name for part in text.split("\0") if (name := part.strip("\n"))]
        if not names:
            raise UsageError(f"{where} lists no image. Write {FORMS}.")
        return with_decisions(ImageList(where, "paths separated by NUL", [Line(name) for name in names]))
    lines = content_lines(text)
    if lines and re.fullmatch(r"sep=.", lines[0]):  # Only Excel uses this line.
        lines, text = lines[1:], text.partition("\n")[2]
    if not lines:
        raise UsageError(f"{where} lists no image. Write {FORMS}.")
    if suffix in (".json", ".jsonl", ".ndjson") or (lines[0][0] in "{[" and not is_image_name(lines[0])):
        return with_decisions(_Json(where).read(text, lines))
    if suffix in (".yaml", ".yml", ".xml", ".html") or lines[0][0] == "<":
        raise _refuse(where, "It is not a list of lines, a table or JSON.")
    return with_decisions(_table(text, where, lines) or _lines(lines, where, table=suffix in (".csv", ".tsv")))


@cache
def _listed() -> re.Pattern[str]:
    """Return the pattern of a path that ends in an image suffix, a label, and words after it."""
    return re.compile(rf"(.+?(?:{_suffixes()}))\s+([+-]?[0-9]{{1,18}})(?:\s+(\S.*))?", re.IGNORECASE)


@cache
def _path_and_rest(separator: str) -> re.Pattern[str]:
    """Return the pattern of a path in quotes or with an image suffix, the separator, and the rest of the line."""
    between = r"\s+" if separator == " " else rf"[^\S\t]*{re.escape(separator)}\s*"
    return re.compile(rf"""(?:(["'])(.+?)\1|(.+?(?:{_suffixes()}))){between}(\S.*)""", re.IGNORECASE)


@cache
def _suffixes() -> str:
    return "|".join(re.escape(suffix) for suffix in sorted(image_suffixes(), key=len, reverse=True))


def labelled(value: Any, where: str) -> tuple[int | None, str] | None:
    """Read the class in a cell or a field: a number, a name, or an object with known fields.

    Args:
        value: the value in JSON or a table.
        where: its name in messages.

    Returns:
        The number and the name of the class, as far as they are known; None if there is no class.

    Raises:
        UsageError: the value has another form.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        fields = {plain(str(key)): entry for key, entry in value.items()}
        found = [labelled(fields[name], where) for name in LABELS if name != "name" and fields.get(name) is not None]
        number = next((one[0] for one in found if one and one[0] is not None), None)
        name = next((one[1] for one in found if one and one[1]), "")
        return None if number is None and not name else (number, name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where} has {str(value)[:100]} where a class should be: a number or a name.")
    text = str(value).strip()
    whole = _LABEL.fullmatch(text)
    return (int(whole[1]), "") if whole else (None, text)


def class_of_row(value: Any, where: str, names: Sequence[str]) -> tuple[int | None, str]:
    """Return number and name of the class in a cell, as far as they are known.

    Args:
        value: the value of the cell.
        where: the table.
        names: the names of the class numbers, if the table has them. The number -1 then means no class, as in test sets
            whose labels are not published.

    Raises:
        UsageError: as `labelled`.
    """
    number, name = labelled(value, where) or (None, "")
    if names and number == -1:
        number = None
    return number, names[number] if not name and number is not None and 0 <= number < len(names) else name


def parse_line(line: str) -> Line:
    """Parse one line of an imglist or of a plain list of paths.

    The path ends at the first image suffix that is followed by a label. A path without such a suffix ends at the first
    space.
    """
    match = _listed().fullmatch(line) or _FIRST_SPACE.fullmatch(line)
    if match is None:
        return Line(_unquoted(line))
    words = (match[3] or "").strip()
    # A comment or further numbers (species and breed in the lists of Oxford's pets) are not a name.
    named = words and not words.startswith("#") and not all(_LABEL.fullmatch(word) for word in words.split())
    return Line(_unquoted(match[1]), int(match[2]), words if named else "")


def format_list(paths: Sequence[str], labels: Sequence[int]) -> str:
    """Write an imglist, one `path label` per line, that `read_image_list` reads back unchanged.

    Raises:
        UsageError: a path cannot be written in a line, for example because it has a line end or is not UTF-8.
    """
    lines = []
    for path, label in zip(paths, labels, strict=True):
        line = f"{path} {label}"
        if not _reads_back(line, path, label):
            raise UsageError(f"An imglist cannot contain the file name {path!r}. Rename the file.")
        lines.append(f"{line}\n")
    return "".join(lines)


def _reads_back(line: str, path: str, label: int) -> bool:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    if set("\n\r\0") & set(line) or line.strip() != line:
        return False
    try:
        return parse_image_list(line, "the line").lines == [Line(path, label)]
    except UsageError:
        return False


def _lines(lines: Sequence[str], where: str, *, table: bool) -> ImageList:
    """Read lines without a header. A separator that fits all of the first lines decides; else they are imglist or paths."""
    look = lines[:_LOOK]
    for separator, said in _SEPARATORS.items():
        if all(separator in line for line in look) and all(_split(line, separator) for line in look):
            made = [_split(line, separator) for line in lines]
            wrong = next((line for line, one in zip(lines, made, strict=True) if one is None), None)
            if wrong is not None:
                raise _refuse(where, f"Its lines are path and label separated by {said}, except {wrong[:200]!r}.")
            found = [one for one in made if one is not None]
            protocol = separator == "," and all(one.label is not None and not one.name for one in found)
            protocol = protocol and (table or any(one.label == -2 for one in found))
            form = "protocol CSV (path,label)" if protocol else f"path and label separated by {said}"
            return ImageList(where, form, found, protocol)
    words = [plain(word) for word in lines[0].split()]
    if len(words) == 2 and words[0] in _PATHS and words[1] in LABELS and len(lines) > 1:
        lines = lines[1:]  # a header
        look = lines[:_LOOK]
    if table:
        raise _refuse(where, f"Its first line {lines[0][:200]!r} is neither 'path,label' nor a header.")
    named = [_path_and_rest(" ").fullmatch(line) for line in look]
    if all(match and not _LABEL.match(match[4]) and not is_image_name(match[4]) for match in named):
        matches = [_path_and_rest(" ").fullmatch(line) for line in lines]
        wrong = next((line for line, match in zip(lines, matches, strict=True) if match is None), None)
        if wrong is None:
            found = [Line(match[2] or match[3], name=match[4]) for match in matches if match]
            return ImageList(where, "path and class name separated by a space", found)
    found = [parse_line(line) for line in lines]
    return ImageList(where, "imglist (path label)" if any(line.label is not None for line in found) else "paths", found)


def _split(line: str, separator: str) -> Line | None:
    """Read `path<separator>label`, also with a name and a label after the path; None if the line has another form."""
    match, last = _path_and_rest(separator).fullmatch(line), False
    if match:
        path, rest = match[2] or match[3], match[4]
    else:
        path, rest = _halves(line, separator)
        if last := is_image_name(rest) and not is_image_name(path):  # The label comes first.
            path, rest = rest, path
        elif not _LABEL.fullmatch(rest):
            return None
    cells = [_unquoted(cell.strip()) for cell in rest.split(separator)]
    numbers = [int(found[1]) for cell in cells if (found := _LABEL.fullmatch(cell))]
    names = [cell for cell in cells if cell and not _LABEL.fullmatch(cell)]
    if last and separator == "\t" and len(numbers) == len(cells) == 2:
        numbers = numbers[1:]  # MXNet's lists have the number of the image before the label.
    if not path or len(numbers) > 1 or len(names) > 1 or not (numbers or names) or any(map(is_image_name, names)):
        return None
    return Line(path, numbers[0] if numbers else None, names[0] if names else "")


def _halves(line: str, separator: str) -> tuple[str, str]:
    """Split a line at its last separator into two cells, quoted or not."""
    try:
        (row,) = parse_rows(line, separator) if '"' in line else [[]]
    except ValueError:
        row = []
    if len(row) == 2:
        return row[0], row[1]
    first, _, last = (_unquoted(part.strip()) for part in line.rpartition(separator))
    return first, last


def _table(text: str, where: str, lines: Sequence[str]) -> ImageList | None:
    """Read a table with a header; None if the first line is not a header."""
    for separator in _SEPARATORS:
        header = [_unquoted(cell.strip()) for cell in lines[0].split(separator)]
        if not any(plain(cell) in _PATHS for cell in header) or any(map(is_image_name, header)):
            continue
        try:
            rows = parse_rows(text, separator) if len(header) > 1 else [[_unquoted(line)] for line in lines]
        except ValueError as error:
            raise _refuse(where, f"It cannot be read as a table: {error}.") from None
        if len(rows) == 1:
            raise UsageError(f"{where} has a header but lists no image.")
        wrong = next((row for row in rows if len(row) != len(header)), None)
        if wrong is not None:
            raise _refuse(where, f"Its header has {len(header)} cells, but the row {wrong[:4]!r} has {len(wrong)}.")
        made, unclear, taken = _records(rows[0], rows[1:], where)
        form = f"table with the columns {some_of(header, 8)}{taken}{_unused_part(header, made)}"
        return ImageList(where, form, made, unclear=unclear)
    return None


def _unused_part(header: Sequence[str], made: Sequence[Line]) -> str:
    """Return a note on a column that has a name for parts but other values (such as fold numbers), or nothing."""
    # Of two columns the second one has the labels, with any name.
    named = [cell for cell in header if cell and not cell.startswith("Unnamed")]
    parts = [cell for cell in named if plain(cell) in _PARTS]
    if not parts or len(named) < 3 or any(line.part for line in made):
        return ""
    return f" (of which {parts[0]!r} names neither train, val nor test and is not used)"


def _records(header: Sequence[str], rows: Sequence[Sequence[str]], where: str) -> tuple[list[Line], str, str]:
    """Return the images of a table, using the names of its columns.

    Also return why they have no classes if that is unclear, and a note on the column used if several may have them.
    """
    rows = [["" if cell in _MISSING else cell for cell in row] for row in rows]
    table = Columns(header, rows)

    def numbers(cells: Sequence[str]) -> bool:
        return any(cells) and all(_LABEL.fullmatch(cell) for cell in cells if cell)

    path = table.pick(_PATHS, lambda cells: any(map(is_image_name, cells[:_LOOK])))
    path = table.pick(_PATHS, all) if path is None else path
    if path is None:
        raise _refuse(where, f"None of its columns {some_of(header, 8)} has paths of images.")
    part = table.pick(_PARTS, lambda cells: any(part_named(cell) for cell in cells), {path})
    if part is not None and (odd := next((row[part] for row in rows if not part_named(row[part])), None)) is not None:
        raise _refuse(where, f"Its column {header[part]} has the value {odd[:100]!r}, which is not train, val or test.")
    part, parts = _parts(table, rows, part)
    used = {i for i in (path, part) if i is not None}
    label = table.pick(LABELS, numbers, used)
    name = table.pick(LABELS, lambda cells: any(cells) and not numbers(cells), used)
    unclear = ""
    if name is not None and (values := _no_names(table.cells(name))):
        unclear = f"Its column {header[name]} has {values}, which are not class names."
        used, name = {*used, name}, None
    others = [i for i, cell in enumerate(header) if i not in used and cell and not cell.startswith("Unnamed")]
    if label is None and name is None and others:
        cells = table.cells(others[0])
        if len(others) > 1 or _no_classes(cells):
            rest = some_of([header[i] for i in others], 8)
            unclear = f"It is unclear which of its columns {rest} has the class. Rename that column to 'label'."
        elif values := _no_names(cells):
            unclear = f"Its column {header[others[0]]} has {values}, which are not class names."
        else:
            label, name = (others[0], None) if numbers(cells) else (None, others[0])
    made = []
    for row, own in zip(rows, parts, strict=True):
        found = _LABEL.fullmatch(row[label]) if label is not None else None
        made.append(Line(row[path], int(found[1]) if found else None, row[name] if name is not None else "", own))
    classes = {i for i in (label, name) if i is not None}
    more = set(map(header.index, class_columns(header))) - used - classes
    taken = f", classes from {some_of([repr(header[i]) for i in sorted(classes)])}" if more and classes else ""
    return made, unclear, taken


def _parts(table: Columns, rows: Sequence[Sequence[str]], part: int | None) -> tuple[int | None, list[Part | None]]:
    """Return the column that names the parts of images, or a column of truth values that does; and the part of each row."""
    if part is not None:
        return part, [part_named(row[part]) for row in rows]
    for name, (yes, no) in _FLAGS.items():
        i = table.places.get(name)
        if i is not None and all(row[i].casefold() in _TRUTH for row in rows):
            return i, [yes if _TRUTH[row[i].casefold()] else no for row in rows]
    return None, [None] * len(rows)


def _no_names(cells: Sequence[str]) -> str:
    """Return what the values of a column are if they cannot be class names: truth values or fractional numbers."""
    values = {cell.casefold() for cell in cells if cell}
    if values and values <= {"true", "false", "yes", "no"}:
        return " and ".join(sorted(values))
    if values and all(re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", value) for value in values):
        return "" if all(_LABEL.fullmatch(value) for value in values) else "numbers that are not whole"
    return ""


def _no_classes(cells: Sequence[str]) -> bool:
    """Whether the values of a column cannot be classes: measurements, or a different value for each image."""
    return (
        any(re.fullmatch(r"[+-]?[0-9]*\.[0-9]*[1-9][0-9]*", cell) for cell in cells)
        or len(set(cells)) == len(cells) > 4
    )


class _Json:
    """Reads the JSON forms."""

    def __init__(self, where: str) -> None:
        self.where, self._unclear, self._taken = where, "", ""

    def read(self, text: str, lines: Sequence[str]) -> ImageList:
        """Read JSON text or JSON lines."""
        if len(lines) > 1 and all(line.startswith("{") and line.endswith("}") for line in lines[:_LOOK]):
            values = [parse_json(line, self.where) for line in lines]
            return self._made("JSON lines", self._records(values))
        if len(text) > MAX_JSON_BYTES:
            raise UsageError(f"{self.where} is too large for a JSON list. Write JSON lines.")
        value = parse_json(text, self.where)
        if isinstance(value, list) and value:
            return self._made("JSON list", list(self._items(value, None)))
        if not isinstance(value, Mapping) or not value:
            raise _refuse(self.where, "Its JSON list is empty.")
        return self._mapping(value)

    def _made(self, form: str, lines: list[Line], below: str = "") -> ImageList:
        return ImageList(self.where, form + self._taken, lines, below=below, unclear=self._unclear)

    def _mapping(self, value: Mapping[str, Any]) -> ImageList:
        if isinstance(value.get("images"), list) and ("annotations" in value or "categories" in value):
            raise _refuse(
                self.where,
                "It is a COCO file, whose images may show objects of several classes. Export one class per image.",
            )
        if isinstance(value.get("labels"), Mapping):
            return self._fiftyone(value)
        parts = {key: part_named(key) for key in value}
        if all(parts.values()):
            lines = [line for key, items in value.items() for line in self._items(items, parts[key])]
            return self._made(f"split file ({', '.join(value)})", lines)
        for name in ("samples", "data", "data_list", "images", "items"):
            if isinstance(value.get(name), list) and all(isinstance(item, Mapping) for item in value[name]):
                lines = self._named(self._records(value[name]), value.get("metainfo", value))
                return self._made(f"JSON records ({name})", lines)
        if all(isinstance(item, list) and all(isinstance(p, str) for p in item) for item in value.values()):
            lines = [Line(path, name=name) for name, paths in value.items() for path in paths]
            if lines and all(is_image_name(line.path) for line in lines):
                return self._made("JSON index {class: [paths]}", lines)
        if all(is_image_name(key) for key in value):
            return self._made("JSON index {path: label}", [self._line(k, v, None) for k, v in value.items()])
        shown = ", ".join(repr(key[:40]) for key in list(value)[:3])
        raise _refuse(self.where, f"Its JSON has the keys {shown}, which is not a known form of an image list.")

    def _fiftyone(self, value: Mapping[str, Any]) -> ImageList:
        """Read FiftyOneImageClassificationDataset: {"classes": [...] or null, "labels": {path without suffix: label}}."""
        lines = self._named([self._line(path, target, None) for path, target in value["labels"].items()], value)
        if not lines:
            raise UsageError(f"{self.where} lists no image.")
        if all(line.label is None and not line.name for line in lines):
            raise _refuse(self.where, "None of its images has a class.")
        return self._made("labels.json of FiftyOne", lines, below="data")

    def _named(self, lines: list[Line], document: Any) -> list[Line]:
        """Add class names to the lines, from the document's list of classes."""
        classes = document.get("classes") if isinstance(document, Mapping) else None
        if classes is None:
            return lines
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise _refuse(self.where, "Its classes are not a list of names.")
        high = next((line for line in lines if line.label is not None and line.label >= len(classes)), None)
        if high is not None:
            raise _refuse(self.where, f"{high.path[:100]!r} has class {high.label}, but there are {len(classes)}.")
        return [
            replace(line, name=classes[line.label])
            if line.label is not None and line.label >= 0 and not line.name
            else line
            for line in lines
        ]

    def _items(self, items: Any, part: Part | None) -> Iterator[Line]:
        """Yield the images of a JSON list of paths, of [path, label, name], or of records."""
        if not isinstance(items, list):
            raise _refuse(self.where, "Its parts are not lists.")
        if items and all(isinstance(item, Mapping) for item in items):
            yield from (line if part is None else replace(line, part=part) for line in self._records(items))
            return
        for item in items:
            if isinstance(item, str):
                yield Line(item, part=part)
            elif isinstance(item, list) and 2 <= len(item) <= 3 and isinstance(item[0], str):
                line = self._line(item[0], item[1], part)
                third = item[2] if len(item) == 3 else ""
                if not isinstance(third, str) or (third and line.name):
                    raise _refuse(self.where, f"It has {json.dumps(item)[:100]} where [path, label, name] should be.")
                yield replace(line, name=line.name or third.strip())
            else:
                raise _refuse(self.where, f"It has {json.dumps(item)[:100]} where a path or [path, label] should be.")

    def _line(self, path: str, target: Any, part: Part | None) -> Line:
        text = self._text(target)
        found = _LABEL.fullmatch(text)
        return Line(path, int(found[1]), part=part) if found else Line(path, name=text, part=part)

    def _records(self, values: Sequence[Any]) -> list[Line]:
        if not all(isinstance(value, Mapping) for value in values):
            raise _refuse(self.where, "Its lines are not all JSON objects.")
        header = list(dict.fromkeys(key for value in values for key in value))
        wanted = {*_PATHS, *LABELS, *_PARTS, *_FLAGS}
        known = [name for name in header if plain(name) in wanted]
        kept = known if any(plain(name) in LABELS for name in known) else header
        rows = [[self._text(value.get(name), name) for name in kept] for value in values]
        lines, self._unclear, self._taken = _records(kept, rows, self.where)
        return lines

    def _text(self, value: Any, field: str = "") -> str:
        """Return the value of a field as a text; a label inside an object or a list of one item is taken out."""
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping):
            value = next((value[key] for key in _BELOW if key in value), value)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            if field and plain(field) not in {*_PATHS, *LABELS, *_PARTS}:
                return ""
            raise _refuse(self.where, f"It has {json.dumps(value)[:100]} where a path or one label should be.")
        return value.strip() if isinstance(value, str) else str(value)


def with_decisions(listed: ImageList) -> ImageList:
    """Add decisions that tell the user how the list was read.

    Raises:
        UsageError: a path is a web address or empty.
    """
    lines = listed.lines
    web = next((line.path for line in lines if re.match(r"(https?|s3|gs|data):", line.path)), None)
    if web is not None:
        raise UsageError(
            f"{listed.source} lists {web[:200]!r}, which is not a file. Download the images and list their paths."
        )
    empty = next((i for i, line in enumerate(lines, 1) if not line.path), None)
    if empty is not None:
        raise _refuse(listed.source, f"Its image {empty} has an empty path.")
    names = sum(bool(line.name) for line in lines)
    numbers = sum(line.label is not None for line in lines)
    labels = "labels by number and name" if names and numbers else "labels by name" if names else "labels by number"
    labels = labels if names or numbers else "no labels"
    text = f"Image list {listed.source} read as {listed.form}: {len(lines)} images, {labels}, first {lines[0].path!r}."
    facts: dict[str, Any] = {
        "file": listed.source,
        "form": listed.form,
        "images": len(lines),
        "labelled": max(names, numbers),
    }
    decisions = [Decision("list-form", text, facts)]
    if listed.unclear:
        decisions.append(
            Decision("list-form", f"{listed.source}: {listed.unclear}", {"file": listed.source, "labelled": 0})
        )
    bare = [line.path for line in lines if line.label is None and not line.name]
    if bare and len(bare) < len(lines):
        text = f"{len(bare)} of {len(lines)} images of {listed.source} have no label; the first is {bare[0][:200]!r}."
        decisions.append(Decision("list-form", text, {"file": listed.source, "unlabelled": len(bare)}, warning=True))
    return replace(listed, decisions=tuple(decisions))


def _refuse(where: str, problem: str) -> UsageError:
    return UsageError(f"{where}: {problem} Supported forms of image lists: {FORMS}.")


def _unquoted(text: str) -> str:
    """Remove the quotes that Windows and `ls` put around a path."""
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text


def portable(path: str) -> str:
    """Convert a file: address to a path, and backslashes of Windows to slashes."""
    if path.startswith("file://"):
        path = unquote(path.removeprefix("file://"))
    return PureWindowsPath(path).as_posix() if "\\" in path else path
