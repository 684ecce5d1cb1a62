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

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import unquote

from negprompt_cli.data.files.textfile import MAX_LIST_BYTES, content_lines, parse_rows, read_text
from negprompt_cli.data.sets.columns import LABELS, plain
from negprompt_cli.data.sets.filekinds import image_suffixes, is_image_name
from negprompt_cli.data.sets.image_records import (
    FORMS,
    LABEL,
    LOOK,
    MAX_JSON_BYTES,
    PATHS,
    SEPARATORS,
    ImageList,
    JsonReader,
    Line,
    read_table,
    refused,
    unquoted,
)
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError

LIST_SUFFIXES = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".lst", ".list"})
"""Suffixes of files that may be lists, where images and lists are both possible."""

_FIRST_SPACE = re.compile(r"(\S+)\s+([+-]?[0-9]{1,18})(?:\s+(\S.*))?")
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f]")


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
        return with_decisions(JsonReader(where).read(text, lines))
    if suffix in (".yaml", ".yml", ".xml", ".html") or lines[0][0] == "<":
        raise refused(where, "It is not a list of lines, a table or JSON.")
    return with_decisions(read_table(text, where, lines) or _lines(lines, where, table=suffix in (".csv", ".tsv")))


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


def parse_line(line: str) -> Line:
    """Parse one line of an imglist or of a plain list of paths.

    The path ends at the first image suffix that is followed by a label. A path without such a suffix ends at the first
    space.
    """
    match = _listed().fullmatch(line) or _FIRST_SPACE.fullmatch(line)
    if match is None:
        return Line(unquoted(line))
    words = (match[3] or "").strip()
    # A comment or further numbers (species and breed in the lists of Oxford's pets) are not a name.
    named = words and not words.startswith("#") and not all(LABEL.fullmatch(word) for word in words.split())
    return Line(unquoted(match[1]), int(match[2]), words if named else "")


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
    look = lines[:LOOK]
    for separator, said in SEPARATORS.items():
        if all(separator in line for line in look) and all(_split(line, separator) for line in look):
            made = [_split(line, separator) for line in lines]
            wrong = next((line for line, one in zip(lines, made, strict=True) if one is None), None)
            if wrong is not None:
                raise refused(where, f"Its lines are path and label separated by {said}, except {wrong[:200]!r}.")
            found = [one for one in made if one is not None]
            protocol = separator == "," and all(one.label is not None and not one.name for one in found)
            protocol = protocol and (table or any(one.label == -2 for one in found))
            form = "protocol CSV (path,label)" if protocol else f"path and label separated by {said}"
            return ImageList(where, form, found, protocol)
    words = [plain(word) for word in lines[0].split()]
    if len(words) == 2 and words[0] in PATHS and words[1] in LABELS and len(lines) > 1:
        lines = lines[1:]  # a header
        look = lines[:LOOK]
    if table:
        raise refused(where, f"Its first line {lines[0][:200]!r} is neither 'path,label' nor a header.")
    named = [_path_and_rest(" ").fullmatch(line) for line in look]
    if all(match and not LABEL.match(match[4]) and not is_image_name(match[4]) for match in named):
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
        elif not LABEL.fullmatch(rest):
            return None
    cells = [unquoted(cell.strip()) for cell in rest.split(separator)]
    numbers = [int(found[1]) for cell in cells if (found := LABEL.fullmatch(cell))]
    names = [cell for cell in cells if cell and not LABEL.fullmatch(cell)]
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
    first, _, last = (unquoted(part.strip()) for part in line.rpartition(separator))
    return first, last


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
        raise refused(listed.source, f"Its image {empty} has an empty path.")
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


def portable(path: str) -> str:
    """Convert a file: address to a path, and backslashes of Windows to slashes."""
    if path.startswith("file://"):
        path = unquote(path.removeprefix("file://"))
    return PureWindowsPath(path).as_posix() if "\\" in path else path
