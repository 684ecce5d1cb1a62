"""Read and write tables as CSV, JSON lines or Parquet, row by row.

A row maps the names of columns to values, in order. Texts and floats are read back exactly, but in CSV every value is read
as text, and a missing one as the empty text. File names may have bytes that are not UTF-8: they are written unchanged to CSV
and JSON lines, and as escape sequences to Parquet. Parquet needs pyarrow (extra `parquet`).
"""

import csv
import importlib.util
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from negprompt_cli.data.files.atomic import atomic_path
from negprompt_cli.errors import UsageError, first_line

FORMATS = ("csv", "jsonl", "parquet")
GROUP = 8192
"""Number of rows in a Parquet row group: efficient for readers, and small enough for memory."""

Kinds = Mapping[str, type]
"""The types of the columns (str, float, int or bool) by name, in order."""


def form_of(path: Path, form: str | None = None, *, remedy: str = "") -> str:
    """Return the format of a file: `form`, else by the suffix of its name.

    Raises:
        UsageError: the suffix is unknown (`remedy` is what else helps), or the format is Parquet and pyarrow is missing.
    """
    form = form or path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"{path}: the name must end in .csv, .jsonl or .parquet.", remedy=remedy)
    if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            f"{path}: Parquet needs pyarrow. Run `pip install 'negprompt[parquet]'`, or use .csv or .jsonl."
        )
    return form


def encoded(row: Mapping[str, Any], form: str) -> bytes:
    """Return a row of CSV or JSON lines."""
    text = csv_line(row.values()) if form == "csv" else json.dumps(row, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "surrogateescape")


def header(columns: Iterable[str], form: str) -> bytes:
    """Return what a table begins with: in CSV the names of the columns."""
    return csv_line(columns).encode() if form == "csv" else b""


def csv_line(values: Iterable[Any]) -> str:
    r"""Return one CSV row with its `\n`; the texts may contain any line ends."""
    values = [str(value).lower() if isinstance(value, bool) else value for value in values]
    buffer = io.StringIO()
    # The writer quotes only its own line end, but readers treat a single \r as a line end too.
    bare = any(isinstance(value, str) and "\r" in value for value in values)
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL).writerow(values)
    return buffer.getvalue()


def write_table(path: Path, form: str, kinds: Kinds, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole file; Parquet has checksums, and is written one row group at a time.

    Raises:
        NegPromptError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        if form != "parquet":
            with temporary.open("wb") as stream:
                stream.write(header(kinds, form))
                stream.writelines(encoded(row, form) for row in rows)
            return
        import pyarrow
        from pyarrow import parquet

        left, schema = iter(rows), _schema(kinds)
        with parquet.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
            while group := [{name: utf8_text(value) for name, value in row.items()} for row in islice(left, GROUP)]:
                writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def read_table(path: Path, form: str, kinds: Kinds | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; checksums in Parquet are checked.

    Args:
        path: the file.
        form: its format.
        kinds: the columns that a CSV header or a Parquet schema must have; None for any.

    Raises:
        UsageError: the file cannot be read.
        ValueError: it has another form or other columns.
    """
    try:
        if form == "parquet":
            yield from _parquet_rows(path, kinds)
        else:
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
                yield from text_rows(text, form, kinds)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or first_line(error)}.") from error


def text_rows(lines: Iterable[str], form: str, kinds: Kinds | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of CSV or JSON lines; `kinds` and errors are those of `read_table`."""
    try:
        if form == "csv":
            reader = csv.reader(lines, strict=True)
            columns = next(reader, [])
            if kinds is not None and columns and columns != list(kinds):
                raise other_columns(columns)
            yield from (dict(zip(columns, row, strict=True)) for row in reader if row)
            return
        for line in lines:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line is not a JSON object")
            yield row
    except (csv.Error, RecursionError) as error:
        raise ValueError(str(error)) from error


def _parquet_rows(path: Path, kinds: Kinds | None) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as opened:
            if kinds is not None and not opened.schema_arrow.equals(_schema(kinds)):
                raise other_columns([f"{field.name} {field.type}" for field in opened.schema_arrow])
            # Older versions of pyarrow fail for a file without rows.
            if opened.num_row_groups:
                for batch in opened.iter_batches(batch_size=GROUP):
                    yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UsageError(f"{path} cannot be read as Parquet: {first_line(error)}.") from error


def other_columns(columns: Iterable[str]) -> ValueError:
    """Make the error for a table with other columns than those that are needed."""
    return ValueError(f"its columns are {', '.join(columns) or 'none'}")


def utf8_text(value: Any) -> Any:
    """Convert a value for Parquet, whose strings are UTF-8: other bytes of file names become escape sequences."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _schema(kinds: Kinds) -> Any:
    import pyarrow

    types = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64(), bool: pyarrow.bool_()}
    return pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])
