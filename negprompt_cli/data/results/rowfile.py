"""Write rows about images while they are computed, as CSV, JSON lines or Parquet.

On standard output rows are flushed batch by batch. Rows for a file are first written to `<name>.part` in the same folder,
which is renamed when all rows are written, so an incomplete file never has the final name. Appending resumes an interrupted
run, or adds rows to a complete file. An incomplete last line is then removed. Images that already have a row are recognised
by a 64-bit digest of their path, which takes eight bytes each.

A Parquet file is readable only when it is complete. Its rows are therefore first written as JSON lines, so that no row is
lost after a crash, and converted to Parquet at the end, one row group at a time. Two runs cannot write the same file at
once.
"""

import csv
import hashlib
import importlib.util
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from negprompt_cli.data.files.atomic import atomic_path, check_place
from negprompt_cli.data.files.claims import claimed
from negprompt_cli.errors import NegPromptError, UsageError, first_line

FORMATS = ("csv", "jsonl", "parquet")
GROUP = 8192
"""Number of rows in a Parquet row group: efficient for readers, and small enough for memory."""
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


COLUMNS = tuple(f.name for f in fields(Row))
NUMBERS = ("probability", "score", "p_value", "negative_similarity")
"""The columns of floats."""


class Sink(Protocol):
    """A receiver of rows."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows."""


class TextSink:
    """Writes CSV or JSON lines to a binary stream; numbers can be read back exactly."""

    def __init__(self, stream: BinaryIO, form: str, *, header: bool = True) -> None:
        self._stream, self._form = stream, form
        if form == "csv" and header:
            self._put(",".join(COLUMNS) + "\n")

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows and flush the stream."""
        if self._form == "csv":
            buffer = io.StringIO()
            for row in rows:
                buffer.write(csv_line([_csv(v) for v in asdict(row).values()]))
            self._put(buffer.getvalue())
        else:
            self._put(_json_lines(asdict(row) for row in rows))

    def _put(self, text: str) -> None:
        # File names may have bytes that are not UTF-8; they are written unchanged.
        self._stream.write(text.encode("utf-8", "surrogateescape"))
        self._stream.flush()


def csv_line(values: Iterable[Any]) -> str:
    r"""Return one CSV row with its `\n`; the texts may contain any line ends."""
    values = list(values)
    buffer = io.StringIO()
    # The writer quotes only its own line end, but readers treat a single \r as a line end too.
    bare = any(isinstance(v, str) and "\r" in v for v in values)
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL).writerow(values)
    return buffer.getvalue()


class KnownPaths:
    """The paths for which a file already has rows.

    Args:
        paths: the paths of its rows.
        written: function that converts a path as in the file; Parquet cannot store every file name unchanged.
    """

    def __init__(self, paths: Iterable[str] = (), *, written: Callable[[str], str] = str) -> None:
        self._written = written
        self._digests = np.sort(np.fromiter((_digest(written(path)) for path in paths), dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, path: str) -> bool:
        digest = _digest(self._written(path))
        place = int(np.searchsorted(self._digests, np.uint64(digest)))
        return place < len(self._digests) and int(self._digests[place]) == digest


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

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row, given by column names with values as in a CSV file or in JSON.

        Raises:
            ValueError, TypeError: it is not a row of scores.
        """
        self.images += 1
        if row["prediction"] in (None, ""):
            self.broken += 1
            return
        self.predictions.add(str(row["prediction"]))
        if len(self.p_values) < SAMPLED and row["score"] not in (None, "") and row["p_value"] not in (None, ""):
            self.p_values[float(row["score"])] = float(row["p_value"])
        if row["score"] in (None, "") or row["is_ood"] in (None, ""):
            self.undecided += 1
            return
        score, verdict = float(row["score"]), row["is_ood"]
        if verdict in (True, "true"):
            self.ood += 1
            self.highest_ood = score if self.highest_ood is None else max(score, self.highest_ood)
        else:
            self.lowest_id = score if self.lowest_id is None else min(score, self.lowest_id)


@dataclass(frozen=True)
class RowFile:
    """An open file: `sink` writes rows, `known` has the paths of existing rows, and `before` their totals.

    `cut`: whether an incomplete last row was removed.
    """

    sink: Sink
    known: KnownPaths
    before: Totals
    cut: bool = False


def form_of(path: Path | None, form: str | None) -> str:
    """Return the format of an output: `form`, else by the suffix of `path`, else CSV.

    Raises:
        UsageError: the suffix is unknown, or the format is Parquet without a file or without pyarrow.
    """
    chosen = form or ("csv" if path is None else path.suffix.lower().removeprefix("."))
    if chosen not in FORMATS:
        raise UsageError(f"{path}: the name must end in .csv, .jsonl or .parquet.", remedy="row-format")
    if chosen == "parquet" and path is None:
        raise UsageError("Parquet can be written to a file only, not to standard output.", remedy="out-file")
    if chosen == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError("Parquet needs pyarrow. Run `pip install 'negprompt[parquet]'`, or write .csv or .jsonl.")
    return chosen


def check_row_file(path: Path, form: str, *, append: bool, overwrite: bool) -> None:
    """Check, before any work, that an output can be written.

    Raises:
        UsageError: `path` is a folder or below a file; it or its unfinished part exists, without `append` or `overwrite`; or
            rows cannot be appended to a Parquet file, because it is damaged or has other columns.
    """
    check_place(path)
    if append and form == "parquet" and path.exists() and not part_of(path).exists():
        next(_parquet_groups(path), None)
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
    form = form_of(path, None)
    try:
        if form == "parquet":
            for group in _parquet_groups(path):
                yield from (Row(**values) for values in group)
            return
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
            if form == "csv":
                reader = csv.DictReader(text, strict=True)
                if reader.fieldnames is not None and tuple(reader.fieldnames) != COLUMNS:
                    raise ValueError(f"its columns are {', '.join(reader.fieldnames)}")
                yield from map(_row_of_texts, reader)
            else:
                yield from (Row(**json.loads(line)) for line in text)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, RecursionError, csv.Error) as error:
        raise UsageError(f"{path} does not contain rows of scores ({error}).") from error


def _row_of_texts(texts: Mapping[str, str]) -> Row:
    """Make a row from the texts of a CSV file.

    Raises:
        ValueError, KeyError, TypeError: the texts are not those of a row.
    """
    numbers = {name: float(texts[name]) if texts[name] else None for name in NUMBERS}
    words = {name: texts[name] or None for name in COLUMNS if name not in (*NUMBERS, "path", "is_ood")}
    is_ood = {"": None, "true": True, "false": False}[texts["is_ood"]]
    return Row(path=texts["path"], is_ood=is_ood, **numbers, **words)  # type: ignore[arg-type]


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
                        for group in _parquet_groups(path):
                            stream.write(_json_lines(group).encode("utf-8"))
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
            with atomic_path(path) as whole:
                _write_parquet(part, whole)
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
    wrong = UsageError(
        f"{path}, or {part_of(path).name} in its folder, does not contain rows of scores in the format {form}.",
        remedy="other-out",
    )
    if form == "csv":
        rows = csv.reader(text)
        try:
            header = next(rows, None)
            if header not in (None, list(COLUMNS)):
                raise wrong
            for row in rows:
                if row:
                    before.add(dict(zip(COLUMNS, row, strict=True)))
                    yield row[0]
        except (csv.Error, ValueError):
            raise wrong from None
        return
    for line in text:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            row = json.loads(line)
            before.add(row)
            yield str(row["path"])
            continue
        raise wrong


def _parquet_schema() -> Any:
    import pyarrow

    kinds = {**dict.fromkeys(NUMBERS, "float64"), "is_ood": "bool_"}
    return pyarrow.schema([(name, getattr(pyarrow, kinds.get(name, "string"))()) for name in COLUMNS])


def _parquet_groups(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a Parquet file, group by group; checksums are checked.

    Raises:
        UsageError: the file is damaged or has other columns.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as opened:
            if not opened.schema_arrow.equals(_parquet_schema()):
                columns = ", ".join(f"{field.name} {field.type}" for field in opened.schema_arrow)
                raise UsageError(
                    f"{path} does not contain rows of scores: its columns are {columns or 'none'}.", remedy="other-out"
                )
            # Older versions of pyarrow fail for a file without rows.
            if opened.num_row_groups:
                for batch in opened.iter_batches(batch_size=GROUP):
                    yield batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = first_line(error)
        raise UsageError(
            f"{path} cannot be read as Parquet ({reason}), so nothing can be appended to it.", remedy="other-out"
        ) from error


def _write_parquet(lines: Path, path: Path) -> None:
    """Convert rows in JSON lines to a Parquet file, one row group at a time.

    Raises:
        UsageError: a line is not a row of scores.
    """
    import pyarrow
    from pyarrow import parquet

    schema = _parquet_schema()
    try:
        with (
            lines.open(encoding="utf-8", errors="surrogateescape", newline="\n") as rows,
            parquet.ParquetWriter(path, schema, write_page_checksum=True) as writer,
        ):
            while group := list(islice(rows, GROUP)):
                values = [{name: utf8_text(value) for name, value in json.loads(row).items()} for row in group]
                writer.write_table(pyarrow.Table.from_pylist(values, schema=schema))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{lines} does not contain rows of scores ({error}).", remedy="other-out") from error


def _json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(value: Any) -> Any:
    return {None: "", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else value


def utf8_text(value: Any) -> Any:
    """Convert a value for Parquet, whose strings are UTF-8: other bytes of file names become escape sequences."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _digest(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest())
