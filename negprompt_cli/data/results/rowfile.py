"""Write rows about images while they are computed, as CSV, JSON lines or Parquet.

On standard output rows are flushed batch by batch. Rows for a file are first written to `<name>.part` in the same folder,
which is renamed when all rows are written, so an incomplete file never has the final name. Appending resumes an interrupted
run, or adds rows to a complete file. An incomplete last line is then removed. Images that already have a row are recognised
by a 64-bit digest of their path, which takes eight bytes each.

A Parquet file is readable only when it is complete. Its rows are therefore first written as JSON lines, so that no row is
lost after a crash, and converted to Parquet at the end, one row group at a time. Two runs cannot write the same file at
once.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Protocol, get_args

import numpy as np

from negprompt_cli.data.files.atomic import atomic_path, check_place
from negprompt_cli.data.files.claims import claimed
from negprompt_cli.data.results import tables
from negprompt_cli.data.results.tables import encoded, form_of, read_table, text_rows, utf8_text, write_table
from negprompt_cli.errors import NegPromptError, UsageError

SAMPLED = 1000
"""Number of rows whose p-values a file's totals keep."""


@dataclass(frozen=True)
class Row:
    """The row of one image. For a broken image only `path` and `error` are set.

    `prediction`: key of the predicted class; `prediction_name`: its words; `probability`: its probability. `score`: ID
    score, higher = more ID. `p_value`: conformal p-value, the share of calibration images with at most this score; None
    without calibration. `is_ood`: the verdict; None without a threshold. `nearest_negative`: class name and number of the
    nearest negative prompt; `negative_similarity`: its cosine; both None without negatives.
    """

    path: str
    prediction: str | None = None
    prediction_name: str | None = None
    probability: float | None = None
    score: float | None = None
    p_value: float | None = None
    is_ood: bool | None = None
    nearest_negative: str | None = None
    negative_similarity: float | None = None
    error: str | None = None


KINDS: dict[str, type] = {f.name: (get_args(f.type) or (f.type,))[0] for f in fields(Row)}
"""The types of the columns, which are the fields of `Row`."""
COLUMNS = tuple(KINDS)
_TRUTH = {None: None, True: True, False: False, "true": True, "false": False}


def _row(values: Mapping[str, Any]) -> Row:
    """Make a row from the values of a table.

    Raises:
        ValueError, TypeError, KeyError: they are not those of a row of scores.
    """
    if values.keys() != KINDS.keys():
        raise tables.other_columns(values)
    known = {name: value for name, value in values.items() if value not in (None, "")}
    numbers = {name: float(known[name]) for name, kind in KINDS.items() if kind is float and name in known}
    return Row(**{**known, **numbers, "is_ood": _TRUTH[known.get("is_ood")]})


class Sink(Protocol):
    """A receiver of rows."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows."""


class TextSink:
    """Writes CSV or JSON lines to a binary stream; numbers can be read back exactly."""

    def __init__(self, stream: BinaryIO, form: str, *, header: bool = True) -> None:
        self._stream, self._form = stream, form
        if header:
            stream.write(tables.header(COLUMNS, form))
            stream.flush()

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows and flush the stream."""
        self._stream.write(b"".join(encoded(vars(row), self._form) for row in rows))
        self._stream.flush()


class KnownPaths:
    """The paths for which a file already has rows, each as often as it has rows.

    Args:
        paths: the paths of its rows.
        written: function that converts a path as in the file; Parquet cannot store every file name unchanged.
    """

    def __init__(self, paths: Iterable[str] = (), *, written: Callable[[str], str] = str) -> None:
        self._written = written
        digests = np.fromiter((_digest(written(path)) for path in paths), dtype=np.uint64)
        self._digests, self._left = np.unique(digests, return_counts=True)

    def __len__(self) -> int:
        return int(self._left.sum())

    def take(self, path: str) -> bool:
        """Whether a row of this path is left, which then counts as used: a list may have a path several times."""
        digest = np.uint64(_digest(self._written(path)))
        place = int(np.searchsorted(self._digests, digest))
        found = place < len(self._digests) and bool(self._digests[place] == digest) and bool(self._left[place])
        if found:
            self._left[place] -= 1
        return found


@dataclass
class Totals:
    """Totals over the rows of a file.

    `broken`: rows with an error. `undecided`: rows with a score but no verdict. `predictions`: keys of predicted classes.
    `highest_ood`, `lowest_id`: the scores nearest to the threshold on both sides; None if there are none. `p_values`: the
    p-values of some rows, by score.
    """

    images: int = 0
    broken: int = 0
    undecided: int = 0
    ood: int = 0
    predictions: set[str] = field(default_factory=set)
    highest_ood: float | None = None
    lowest_id: float | None = None
    p_values: dict[float, float] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.images += 1
        if row.prediction is None:
            self.broken += 1
            return
        self.predictions.add(row.prediction)
        if len(self.p_values) < SAMPLED and row.score is not None and row.p_value is not None:
            self.p_values[row.score] = row.p_value
        if row.score is None or row.is_ood is None:
            self.undecided += 1
        elif row.is_ood:
            self.ood += 1
            self.highest_ood = row.score if self.highest_ood is None else max(row.score, self.highest_ood)
        else:
            self.lowest_id = row.score if self.lowest_id is None else min(row.score, self.lowest_id)


@dataclass(frozen=True)
class RowFile:
    """An open file: `sink` writes rows, `known` has the paths of existing rows, and `before` their totals.

    `cut`: whether an incomplete last row was removed.
    """

    sink: Sink
    known: KnownPaths
    before: Totals
    cut: bool = False


def row_form(path: Path | None, form: str | None) -> str:
    """Return the format of an output: `form`, else by the suffix of `path`, else CSV.

    Raises:
        UsageError: the suffix is unknown, or the format is Parquet without a file or without pyarrow.
    """
    if path is not None:
        return form_of(path, form, remedy="row-format")
    if form == "parquet":
        raise UsageError("Parquet can be written to a file only, not to standard output.", remedy="out-file")
    return form or "csv"


def check_row_file(path: Path, form: str, *, append: bool, overwrite: bool) -> None:
    """Check, before any work, that an output can be written.

    Raises:
        UsageError: `path` is a folder or below a file; it or its unfinished part exists, without `append` or `overwrite`; or
            rows cannot be appended to a Parquet file, because it is damaged or has other columns.
    """
    check_place(path)
    if append and form == "parquet" and path.exists() and not part_of(path).exists():
        next(_old_rows(path, form), None)
    if append or overwrite:
        return
    if path.exists():
        raise UsageError(f"{path} exists.", remedy="append-or-overwrite")
    if part_of(path).exists():
        raise UsageError(f"{part_of(path)} contains the rows of an interrupted run.", remedy="append-or-overwrite")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a finished file, in order; its suffix defines the format.

    Raises:
        UsageError: the file cannot be read, or does not contain rows of scores.
    """
    try:
        yield from map(_row, read_table(path, form_of(path), KINDS))
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} does not contain rows of scores: {error}.") from error


def _old_rows(path: Path, form: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a finished file to which rows are added; errors as `read_rows`."""
    try:
        yield from read_table(path, form, KINDS)
    except (ValueError, UsageError) as error:
        fault = str(error) if isinstance(error, UsageError) else f"{path} does not contain rows of scores: {error}."
        raise UsageError(fault, remedy="other-out") from error


def part_of(path: Path) -> Path:
    """Return the file to which the rows of `path` are written until they are complete."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def row_file(path: Path, form: str, *, append: bool) -> Iterator[RowFile]:
    """Open `path` for rows; it is created or replaced when the body ends. After an error the unfinished part is kept.

    Raises:
        NegPromptError: the file cannot be written.
        UsageError: the file to append to is damaged or has other rows, or another command is writing it.
    """
    with claimed(path):
        yield from _row_file(path, form, append=append)


def _row_file(path: Path, form: str, *, append: bool) -> Iterator[RowFile]:
    part = part_of(path)
    growing = "jsonl" if form == "parquet" else form
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not append:
            part.unlink(missing_ok=True)
        elif path.exists() and not part.exists():
            # A part with only some of the old rows would look like that of an interrupted run.
            with atomic_path(part) as copy:
                if form == "parquet":
                    with copy.open("wb") as stream:
                        stream.writelines(encoded(row, growing) for row in _old_rows(path, form))
                else:
                    shutil.copyfile(path, copy)
        with part.open("a+b") as stream:
            before = Totals()
            size = stream.seek(0, os.SEEK_END)
            known = _resume(stream, growing, path, before, written=utf8_text if form == "parquet" else str)
            cut = stream.tell() < size
            yield RowFile(TextSink(stream, growing, header=stream.tell() == 0), known, before, cut)
            os.fsync(stream.fileno())
        if form == "parquet":
            write_table(path, form, KINDS, read_table(part, growing))
            part.unlink()
        else:
            part.replace(path)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise NegPromptError(
            f"Cannot write {path}: {error.strerror or error}. Free disk space or choose another path. The rows written so "
            f"far are in {part}.",
            remedy="append-later",
        ) from error


def _resume(stream: BinaryIO, form: str, path: Path, before: Totals, *, written: Callable[[str], str]) -> KnownPaths:
    """Remove an incomplete last row, move the stream to its end, read the paths of existing rows, and count the rows."""
    end, offset, quotes = 0, 0, 0
    stream.seek(0)
    for line in stream:
        offset += len(line)
        # In CSV a line end between quotes belongs to a cell.
        quotes += line.count(b'"') if form == "csv" else 0
        if line.endswith(b"\n") and quotes % 2 == 0:
            end = offset
    stream.truncate(end)
    stream.seek(0)
    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")
    try:
        known = KnownPaths(_paths(text, form, path, before), written=written)
    finally:
        text.detach()
    stream.seek(0, os.SEEK_END)
    return known


def _paths(text: Iterable[str], form: str, path: Path, before: Totals) -> Iterator[str]:
    try:
        for row in map(_row, text_rows(text, form, KINDS)):
            before.add(row)
            yield row.path
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{path}, or {part_of(path).name} in its folder, does not contain rows of scores in the format {form}.",
            remedy="other-out",
        ) from error


def _digest(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest())
