"""Read untrusted text, JSON and tables. Size and depth are limited, and nothing is executed.

Each kind of text file has a size limit that real files do not reach. Files are read in blocks, so even an endless file (a
device, a pipe) uses no more memory than the limit. The standard library reads JSON and limits its depth. Duplicate keys are
refused, because the parser would silently keep the last one.

YAML is in `yamlfile`. Callers check schemas.
"""

import codecs
import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from negprompt_cli.errors import UsageError

MAX_LIST_BYTES = 1 << 30
"""Largest list of images; that of ImageNet-21k is half as large."""
_BLOCK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


_BINARY = {
    b"PK\x03\x04": "an archive or a workbook of Excel",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel",
    b"\x1f\x8b": "compressed",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "an array of NumPy",
    b"\x80\x04": "a pickle of Python",
    b"SQLite format": "a database",
}
"""First bytes of tables and other files that are not text."""


def read_text(path: Path, *, most: int, what: str, nul: bool = False) -> str:
    r"""Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark. The mark is removed; line ends are `\n`.

    Args:
        path: the file.
        most: largest size, bytes.
        what: what the file should be, for messages: "a list".
        nul: whether the text may contain NUL, for example as a separator.

    Raises:
        UsageError: the file cannot be read, is larger than `most`, contains NUL bytes, or has another encoding.
    """
    try:
        with path.open("rb") as file:
            return read_stream(file, str(path), most=most, what=what, nul=nul)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UsageError(f"{path} cannot be read: {reason or error}.") from error


def read_stream(file: BinaryIO, where: str, *, most: int, what: str, nul: bool = False) -> str:
    """Read text from an open file or a pipe, as `read_text` does.

    Args:
        file: a file opened for reading bytes.
        where: its name in messages.
        most: largest size, bytes.
        what: what the file should be, for messages.
        nul: whether the text may contain NUL.

    Raises:
        UsageError: the text is larger than `most`, contains NUL bytes, or has another encoding.
    """
    blocks: list[bytes] = []
    size, encoding = 0, "utf-8-sig"
    while block := file.read(_BLOCK):
        if not blocks:
            encoding = next((name for mark, name in _MARKS if block.startswith(mark)), encoding)
            if (kind := next((kind for start, kind in _BINARY.items() if block.startswith(start)), None)) is not None:
                raise UsageError(f"{where} is {kind}, not {what}. Save it as text, such as CSV in UTF-8.")
        if b"\0" in block and not nul and encoding == "utf-8-sig":
            raise UsageError(f"{where} contains NUL bytes, so it is not {what}. Save it as UTF-8 text.")
        size += len(block)
        if size > most:
            raise UsageError(f"{where} is larger than {amount(most)}, so it is not {what}.")
        blocks.append(block)
    try:
        text = b"".join(blocks).decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} is not a UTF-8 text file (byte {error.start}). Save it as UTF-8 (in Excel: CSV UTF-8)."
        ) from error
    if not nul and "\0" in text:
        raise UsageError(f"{where} contains NUL characters, so it is not {what}. Save it as UTF-8 text.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Return the `content_lines` of a list; errors are those of `read_text`."""
    return content_lines(read_text(path, most=MAX_LIST_BYTES, what="a list"))


def content_lines(text: str) -> list[str]:
    """Return the lines of a text that are neither blank nor comments ('#' first), stripped."""
    # Only a line feed ends a line: other line separators of Unicode can occur in file names.
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def parse_json(text: str, where: str) -> Any:
    """Read JSON text.

    Raises:
        UsageError: the text is not JSON, is nested too deep, or has a duplicate key; the message begins with `where`.
    """
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}, line {error.lineno}: not readable as JSON: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{where}: not readable as JSON: {reason}.") from None


def parse_rows(text: str, delimiter: str) -> list[list[str]]:
    """Read a table of quoted or unquoted cells; cells are stripped, blank lines and '#' comments are skipped.

    Args:
        text: the table, with or without a header.
        delimiter: one character.

    Raises:
        ValueError: a quote is not closed, or a cell has more than 128 KiB.
    """
    lines = (line for line in io.StringIO(text) if line.strip() and not line.startswith("#"))
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter, strict=True)]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return [row for row in rows if any(row)]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of pairs.

    Raises:
        ValueError: a key comes twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:100]!r} occurs twice")
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON value")


def amount(size: int) -> str:
    """A number of bytes in words: `256 KiB`."""
    unit, name = next((u, n) for u, n in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")) if size >= u)
    return f"{size // unit} {name}"
