"""Images in a column of a Parquet file, read a few rows at a time with pyarrow (extra `parquet`).

The image column has the files' bytes, or structs of `bytes` and `path` as Hugging Face's `datasets` writes them. If bytes
are missing, the path is that of a file beside the Parquet file. Of several such columns the one called image or img is used,
else the first. The classes are in a column with a name that image lists use (label, class, ...). Names for class numbers
come from the schema, where `datasets` stores them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from negprompt_cli.data.sets.columns import ImageColumns, class_columns
from negprompt_cli.data.sets.image_records import class_of_row
from negprompt_cli.errors import UsageError, first_line

SUFFIXES = (".parquet",)
_ROWS = 32
"""Number of rows kept in memory at once."""


@dataclass(frozen=True)
class Columns(ImageColumns):
    """The content of a Parquet file: also the number of `rows`, and the `names` of class numbers."""

    rows: int
    names: tuple[str, ...]


def columns(path: Path) -> Columns:
    """Read the schema of a Parquet file.

    Raises:
        UsageError: pyarrow is missing, the file is not a Parquet file, or no column has images.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    return _columns(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _columns(path: Path, size: int, changed: int) -> Columns:
    with _open(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    kinds = {field.name: str(field.type) for field in schema}
    found = [name for name, kind in kinds.items() if _holds_images(kind)]
    if not found:
        listed = ", ".join(f"{name} {kind}" for name, kind in list(kinds.items())[:8])
        raise UsageError(
            f"{path} has no column of images: its columns are {listed or 'none'}. A column of images has the files' bytes, "
            "or structs of bytes and path as Hugging Face's datasets writes them."
        )
    labels = [name for name, kind in kinds.items() if kind in ("string", "large_string") or "int" in kind]
    columns = ImageColumns(str(path), tuple(found), tuple(class_columns(labels)))
    names: tuple[str, ...] = ()
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        names = tuple(map(str, features[columns.label]["names"]))
    except (ValueError, KeyError, TypeError):
        pass  # Another program, or another version of datasets, wrote the file.
    return Columns(**vars(columns), rows=count, names=names)


def classes(path: Path) -> Iterator[tuple[int | None, str]]:
    """Yield the class of each row, by number or by name.

    Raises:
        UsageError: as `columns`.
    """
    found = columns(path)
    if found.label is None:
        yield from [(None, "")] * found.rows
        return
    with _open(path) as file:
        for batch in file.iter_batches(columns=[found.label]) if found.rows else ():
            for value in batch.column(0).to_pylist():
                yield class_of_row(value, str(path), found.names)


def read(path: Path, row: int) -> tuple[bytes, str]:
    """Return the content of the image in a row, and the name of its file if known.

    Raises:
        OSError: there is no such row, or it has no image.
    """
    try:
        found = columns(path)
        if not 0 <= row < found.rows:
            raise OSError(f"it has only {found.rows} rows")
        with _reading:
            value = _rows(path).row(row)
    except UsageError as error:
        raise OSError(str(error)) from error
    return content(value, path.parent)


def content(value: Any, beside: Path) -> tuple[bytes, str]:
    """Return the bytes and the file name in a cell: bytes, or a mapping with `bytes` and `path`.

    Args:
        value: the value of the cell.
        beside: the folder that a path without bytes is relative to.

    Raises:
        OSError: the cell has neither bytes nor the path of a readable file.
    """
    if isinstance(value, bytes):
        return value, ""
    data, name = (value.get("bytes"), value.get("path") or "") if isinstance(value, dict) else (None, "")
    if data is None and name:
        data = (beside / name).read_bytes()
    if data is None:
        raise OSError("the row has no image")
    return data, Path(name).name


def _holds_images(kind: str) -> bool:
    return kind in ("binary", "large_binary") or (kind.startswith("struct<") and "bytes: " in kind and "binary" in kind)


def _open(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(f"{path}: Parquet needs pyarrow. Run `pip install 'negprompt[parquet]'`.") from None
    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = first_line(error)
        raise UsageError(f"{path} cannot be read as Parquet ({reason}). Copy or download it again.") from error


class _Rows:
    """Reads the images of a Parquet file, a few rows at a time. Reading forward is fast; going back restarts a row group."""

    def __init__(self, path: Path) -> None:
        found = columns(path)
        self._file, self._column = _open(path), found.image
        groups = self._file.metadata
        self._starts = [0]
        for group in range(self._file.num_row_groups):
            self._starts.append(self._starts[-1] + groups.row_group(group).num_rows)
        self._group, self._next = -1, 0
        self._batches: Iterator[Any] = iter(())
        self._held: list[Any] = []

    def row(self, row: int) -> Any:
        """Return the image cell of a row."""
        group = next(i for i, end in enumerate(self._starts[1:]) if row < end)
        if group != self._group or row < self._next - len(self._held):
            self._group, self._next, self._held = group, self._starts[group], []
            self._batches = self._file.iter_batches(_ROWS, row_groups=[group], columns=[self._column])
        while row >= self._next:
            batch = next(self._batches)
            self._next += batch.num_rows
            self._held = batch.column(0) if row < self._next else []
        return self._held[row - self._next + len(self._held)].as_py()


_reading = Lock()


def _rows(path: Path) -> _Rows:
    stat = path.stat()
    return _open_rows(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)
def _open_rows(path: Path, size: int, changed: int) -> _Rows:
    return _Rows(path)
