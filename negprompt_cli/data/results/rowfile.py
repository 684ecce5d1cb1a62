"""Rows about images, written as they come: CSV, JSON lines or Parquet.

On standard output rows are flushed batch by batch. A file grows beside its place as `<name>.part` and takes its place when
all rows are in, so FILE is whole or not there; what an interrupted run leaves is gone on with by appending. Appending also
adds to a whole file. A last line cut short by a crash is dropped then, and images that have a row are known by a 64-bit
digest of their path: eight bytes each.

A Parquet file cannot be read before its end is written, so its rows grow as JSON lines, which lose no row however a run
ends, and are turned into Parquet a row group at a time when all are in. Two runs at once on one file are refused.
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
"""Rows of a Parquet row group: a size that readers like, and few enough to hold in memory."""
SAMPLED = 1000
"""Rows of which a file's totals keep the p-values."""


@dataclass(frozen=True)
class Row:
    """One image. Of a broken image only `path` and `error` are known.

    `prediction`: key of the class, `prediction_name` its words. `probability`: of that class. `score`: ID score, higher =
    more ID. `p_value`: share of the calibration images that are at most as ID (conformal); None without calibration.
    `is_ood`: whether it is called OOD; None without a threshold. `nearest_negative`: class name and number of the
    nearest negative prompt, `negative_similarity` its cosine; None without negatives.
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
    """Somewhere rows go."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take some rows."""


class TextSink:
    """CSV or JSON lines on a binary stream; numbers read back exactly."""

    def __init__(self, stream: BinaryIO, form: str, *, header: bool = True) -> None:
        self._stream, self._form = stream, form
        if form == "csv" and header:
            self._put(",".join(COLUMNS) + "\n")

    def write(self, rows: Sequence[Row]) -> None:
        """Write and flush."""
        if self._form == "csv":
            buffer = io.StringIO()
            for row in rows:
                buffer.write(csv_line([_csv(v) for v in asdict(row).values()]))
            self._put(buffer.getvalue())
        else:
            self._put(_json_lines(asdict(row) for row in rows))

    def _put(self, text: str) -> None:
        # File names need not be UTF-8; their bytes are passed through.
        self._stream.write(text.encode("utf-8", "surrogateescape"))
        self._stream.flush()


def csv_line(values: Iterable[Any]) -> str:
    r"""One row of CSV with its `\n`, whatever line ends its texts contain."""
    values = list(values)
    buffer = io.StringIO()
    # The writer quotes only its own line end, but every reader takes a bare \r for one.
    bare = any(isinstance(v, str) and "\r" in v for v in values)
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL).writerow(values)
    return buffer.getvalue()


class KnownPaths:
    """Which paths a file has rows for already.

    Args:
        paths: those of its rows.
        written: how the file writes a path; Parquet cannot hold every file name as it is.
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
    """What the rows of a file say together.

    `broken`: rows with an error. `undecided`: rows with a score and no verdict. `predictions`: keys of predicted classes.
    `highest_ood`, `lowest_id`: scores at the two sides of the threshold; None where there are none. `p_values`: scores of
    some rows with their p-values.
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
        """Count a row, by the names of its columns; values as a CSV file or as JSON has them.

        Raises:
            ValueError, TypeError: it is no such row.
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
    """A file that takes rows, which images it has rows for already, and what those rows say.

    `cut`: whether an incomplete last row was removed.
    """

    sink: Sink
    known: KnownPaths
    before: Totals
    cut: bool = False


def form_of(path: Path | None, form: str | None) -> str:
    """The format of an output: `form`, else by the suffix of `path`, else CSV.

    Raises:
        UsageError: another suffix, Parquet without a file or without pyarrow.
    """
    chosen = form or ("csv" if path is None else path.suffix.lower().removeprefix("."))
    if chosen not in FORMATS:
        raise UsageError(f"{path}: the name must end in .csv, .jsonl or .parquet.", remedy="row-format")
    if chosen == "parquet" and path is None:
        raise UsageError("Parquet is written to a file, not to standard output.", remedy="out-file")
    if chosen == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError("Parquet needs pyarrow. Run `pip install 'negprompt[parquet]'`, or write .csv or .jsonl.")
    return chosen


def check_row_file(path: Path, form: str, *, append: bool, overwrite: bool) -> None:
    """Refuse, before any work, an output that could not be written.

    Raises:
        UsageError: it is a folder or below a file, it exists or is unfinished and neither `append` nor `overwrite` is given,
            or it is a Parquet file to append to that is damaged or holds other columns.
    """
    check_place(path)
    if append and form == "parquet" and path.exists() and not part_of(path).exists():
        next(_parquet_groups(path), None)
    if append or overwrite:
        return
    if path.exists():
        raise UsageError(f"{path} exists.", remedy="append-or-overwrite")
    if part_of(path).exists():
        raise UsageError(f"{part_of(path)} holds the rows of an interrupted run.", remedy="append-or-overwrite")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a finished file, in order; its form is told by its suffix.

    Raises:
        UsageError: it cannot be read, or does not hold such rows.
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
        raise UsageError(f"{path} does not hold rows of scores ({error}).") from error


def _row_of_texts(texts: Mapping[str, str]) -> Row:
    """A row from the texts of a CSV file.

    Raises:
        ValueError, KeyError, TypeError: they are those of no row.
    """
    numbers = {name: float(texts[name]) if texts[name] else None for name in NUMBERS}
    words = {name: texts[name] or None for name in COLUMNS if name not in (*NUMBERS, "path", "is_ood")}
    is_ood = {"": None, "true": True, "false": False}[texts["is_ood"]]
    return Row(path=texts["path"], is_ood=is_ood, **numbers, **words)  # type: ignore[arg-type]


def part_of(path: Path) -> Path:
    """Where the rows of `path` grow until they are all there."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def row_file(path: Path, form: str, *, append: bool) -> Iterator[RowFile]:
    """Open `path` for rows; it appears, or is replaced, when the body is through. After an error the part is kept.

    Raises:
        NegPromptError: it cannot be written.
        UsageError: appending to a file that is damaged or does not hold such rows, or another command writes it.
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
            # A part with only some of the old rows would be taken for what an interrupted run left.
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
            f"Cannot write {path}: {error.strerror or error}. Free space or choose another place. {part} keeps the rows "
            "written so far.",
            remedy="append-later",
        ) from error


def _resume(stream: BinaryIO, form: str, path: Path, before: Totals, *, written: Callable[[str], str]) -> KnownPaths:
    """Cut off an unfinished last row, leave the stream at its end, read which images are there and count the rows."""
    end, offset, quotes = 0, 0, 0
    stream.seek(0)
    for line in stream:
        offset += len(line)
        # A line end between quotes belongs to a CSV field.
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
        f"{path}, or {part_of(path).name} beside it, does not hold rows of scores in the format {form}.",
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
    """The rows of a Parquet file, a group at a time, read with its checksums.

    Raises:
        UsageError: it is damaged, or holds other columns.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as opened:
            if not opened.schema_arrow.equals(_parquet_schema()):
                columns = ", ".join(f"{field.name} {field.type}" for field in opened.schema_arrow)
                raise UsageError(
                    f"{path} does not hold rows of scores: its columns are {columns or 'none'}.", remedy="other-out"
                )
            # Older pyarrow cannot iterate over no rows.
            if opened.num_row_groups:
                for batch in opened.iter_batches(batch_size=GROUP):
                    yield batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = first_line(error)
        raise UsageError(
            f"{path} cannot be read as Parquet ({reason}), so nothing can be appended to it.", remedy="other-out"
        ) from error


def _write_parquet(lines: Path, path: Path) -> None:
    """Turn rows in JSON lines into a Parquet file, a row group at a time.

    Raises:
        UsageError: a line does not hold such a row.
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
        raise UsageError(f"{lines} does not hold rows of scores ({error}).", remedy="other-out") from error


def _json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(value: Any) -> Any:
    return {None: "", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else value


def utf8_text(value: Any) -> Any:
    """A value for Parquet, whose strings are UTF-8: other bytes of file names become escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _digest(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest())
