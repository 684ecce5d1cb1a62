"""The images of a list, and lists whose fields have names: tables with a header, and JSON.

`image_list` describes the forms.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from negprompt_cli.data.files.textfile import parse_json, parse_rows
from negprompt_cli.data.sets.columns import LABELS, Columns, class_columns, plain
from negprompt_cli.data.sets.filekinds import is_image_name
from negprompt_cli.data.sets.parts import Part, part_named
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

MAX_JSON_BYTES = 256 << 20
"""Largest JSON list; reading it needs memory for all its objects."""

FORMS = (
    "one path per line, 'path label' lines with a space, TAB, comma or semicolon (the label a number or a class name), CSV "
    "with a header such as path,label, JSON lines with file_name and label, CoOp's split_*.json, or FiftyOne's labels.json"
)
"""The supported forms, for messages."""

PATHS = (
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
LABEL = re.compile(r"([+-]?[0-9]{1,18})(?:\.0+)?")  # pandas writes numbers as 3.0 if some are missing
_MISSING = frozenset({"nan", "NaN", "<NA>", "null", "NULL"})
"""Texts by which programs mark an empty cell."""
SEPARATORS = {"\t": "a TAB", ",": "a comma", ";": "a semicolon", "|": "a bar"}
LOOK = 1000
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
    whole = LABEL.fullmatch(text)
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


def read_table(text: str, where: str, lines: Sequence[str]) -> ImageList | None:
    """Read a table with a header; None if the first line is not a header."""
    for separator in SEPARATORS:
        header = [unquoted(cell.strip()) for cell in lines[0].split(separator)]
        if not any(plain(cell) in PATHS for cell in header) or any(map(is_image_name, header)):
            continue
        try:
            rows = parse_rows(text, separator) if len(header) > 1 else [[unquoted(line)] for line in lines]
        except ValueError as error:
            raise refused(where, f"It cannot be read as a table: {error}.") from None
        if len(rows) == 1:
            raise UsageError(f"{where} has a header but lists no image.")
        wrong = next((row for row in rows if len(row) != len(header)), None)
        if wrong is not None:
            raise refused(where, f"Its header has {len(header)} cells, but the row {wrong[:4]!r} has {len(wrong)}.")
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
        return any(cells) and all(LABEL.fullmatch(cell) for cell in cells if cell)

    path = table.pick(PATHS, lambda cells: any(map(is_image_name, cells[:LOOK])))
    path = table.pick(PATHS, all) if path is None else path
    if path is None:
        raise refused(where, f"None of its columns {some_of(header, 8)} has paths of images.")
    part = table.pick(_PARTS, lambda cells: any(part_named(cell) for cell in cells), {path})
    if part is not None and (odd := next((row[part] for row in rows if not part_named(row[part])), None)) is not None:
        raise refused(where, f"Its column {header[part]} has the value {odd[:100]!r}, which is not train, val or test.")
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
        found = LABEL.fullmatch(row[label]) if label is not None else None
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
        return "" if all(LABEL.fullmatch(value) for value in values) else "numbers that are not whole"
    return ""


def _no_classes(cells: Sequence[str]) -> bool:
    """Whether the values of a column cannot be classes: measurements, or a different value for each image."""
    return (
        any(re.fullmatch(r"[+-]?[0-9]*\.[0-9]*[1-9][0-9]*", cell) for cell in cells)
        or len(set(cells)) == len(cells) > 4
    )


class JsonReader:
    """Reads the JSON forms."""

    def __init__(self, where: str) -> None:
        self.where, self._unclear, self._taken = where, "", ""

    def read(self, text: str, lines: Sequence[str]) -> ImageList:
        """Read JSON text or JSON lines."""
        if len(lines) > 1 and all(line.startswith("{") and line.endswith("}") for line in lines[:LOOK]):
            values = [parse_json(line, self.where) for line in lines]
            return self._made("JSON lines", self._records(values))
        if len(text) > MAX_JSON_BYTES:
            raise UsageError(f"{self.where} is too large for a JSON list. Write JSON lines.")
        value = parse_json(text, self.where)
        if isinstance(value, list) and value:
            return self._made("JSON list", list(self._items(value, None)))
        if not isinstance(value, Mapping) or not value:
            raise refused(self.where, "Its JSON list is empty.")
        return self._mapping(value)

    def _made(self, form: str, lines: list[Line], below: str = "") -> ImageList:
        return ImageList(self.where, form + self._taken, lines, below=below, unclear=self._unclear)

    def _mapping(self, value: Mapping[str, Any]) -> ImageList:
        if isinstance(value.get("images"), list) and ("annotations" in value or "categories" in value):
            raise refused(
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
        raise refused(self.where, f"Its JSON has the keys {shown}, which is not a known form of an image list.")

    def _fiftyone(self, value: Mapping[str, Any]) -> ImageList:
        """Read FiftyOneImageClassificationDataset: {"classes": [...] or null, "labels": {path without suffix: label}}."""
        lines = self._named([self._line(path, target, None) for path, target in value["labels"].items()], value)
        if not lines:
            raise UsageError(f"{self.where} lists no image.")
        if all(line.label is None and not line.name for line in lines):
            raise refused(self.where, "None of its images has a class.")
        return self._made("labels.json of FiftyOne", lines, below="data")

    def _named(self, lines: list[Line], document: Any) -> list[Line]:
        """Add class names to the lines, from the document's list of classes."""
        classes = document.get("classes") if isinstance(document, Mapping) else None
        if classes is None:
            return lines
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise refused(self.where, "Its classes are not a list of names.")
        high = next((line for line in lines if line.label is not None and line.label >= len(classes)), None)
        if high is not None:
            raise refused(self.where, f"{high.path[:100]!r} has class {high.label}, but there are {len(classes)}.")
        return [
            replace(line, name=classes[line.label])
            if line.label is not None and line.label >= 0 and not line.name
            else line
            for line in lines
        ]

    def _items(self, items: Any, part: Part | None) -> Iterator[Line]:
        """Yield the images of a JSON list of paths, of [path, label, name], or of records."""
        if not isinstance(items, list):
            raise refused(self.where, "Its parts are not lists.")
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
                    raise refused(self.where, f"It has {json.dumps(item)[:100]} where [path, label, name] should be.")
                yield replace(line, name=line.name or third.strip())
            else:
                raise refused(self.where, f"It has {json.dumps(item)[:100]} where a path or [path, label] should be.")

    def _line(self, path: str, target: Any, part: Part | None) -> Line:
        text = self._text(target)
        found = LABEL.fullmatch(text)
        return Line(path, int(found[1]), part=part) if found else Line(path, name=text, part=part)

    def _records(self, values: Sequence[Any]) -> list[Line]:
        if not all(isinstance(value, Mapping) for value in values):
            raise refused(self.where, "Its lines are not all JSON objects.")
        header = list(dict.fromkeys(key for value in values for key in value))
        wanted = {*PATHS, *LABELS, *_PARTS, *_FLAGS}
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
            if field and plain(field) not in {*PATHS, *LABELS, *_PARTS}:
                return ""
            raise refused(self.where, f"It has {json.dumps(value)[:100]} where a path or one label should be.")
        return value.strip() if isinstance(value, str) else str(value)


def refused(where: str, problem: str) -> UsageError:
    """Make the error for a text that is not a list of images."""
    return UsageError(f"{where}: {problem} Supported forms of image lists: {FORMS}.")


def unquoted(text: str) -> str:
    """Remove the quotes that Windows and `ls` put around a path."""
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text
