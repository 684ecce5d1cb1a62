"""The scores of single images as a file: CSV, JSON lines or Parquet, by the suffix.

Each row is an image: its set, role (id or ood), path, true class and predicted class (key and name each; an OOD image has no
true class), the seed of the prompts, and every score as a float64 that is read back exactly. pyarrow writes Parquet; it is
an extra (`pip install negprompt[parquet]`).
"""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from negprompt_cli.data.files.atomic import atomic_path, atomic_write_bytes
from negprompt_cli.data.results.rowfile import csv_line, utf8_text
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.measure import Measured
from negprompt_cli.steps.shared.outputs import refuse_existing

SUFFIXES = (".csv", ".jsonl", ".parquet")
COLUMNS = ("set", "role", "path", "label", "label_name", "prediction", "prediction_name", "seed")


def check_score_file(path: Path, *, overwrite: bool) -> None:
    """Check, before any work, that a file of scores can be written.

    Raises:
        UsageError: the suffix is unknown, pyarrow is missing for Parquet, or the file exists and `overwrite` is false.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}, which choose the format.")
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            f"{path}: Parquet needs pyarrow. Run `pip install 'negprompt[parquet]'`, or use .csv or .jsonl."
        )
    refuse_existing(path, overwrite=overwrite)


def save_scores(path: Path, measured: Sequence[Measured]) -> None:
    """Write one row per image and artifact; `check_score_file` checks the path.

    Raises:
        NegPromptError: the file cannot be written.
    """
    columns = (*COLUMNS, *measured[0].scores)
    rows = (row for one in measured for row in image_rows(one))
    if path.suffix.lower() == ".csv":
        # repr of a float is the shortest text that is read back as the same float.
        lines = [csv_line(columns), *(csv_line(row[name] for name in columns) for row in rows)]
        _write_text(path, "".join(lines))
    elif path.suffix.lower() == ".jsonl":
        _write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        _write_parquet(path, columns, [{name: utf8_text(value) for name, value in row.items()} for row in rows])


def _write_text(path: Path, text: str) -> None:
    # File names need not be UTF-8, so their bytes are kept.
    atomic_write_bytes(path, text.encode("utf-8", "surrogateescape"))


def image_rows(measured: Measured) -> Iterator[dict[str, Any]]:
    """The rows of one artifact: ID images first, then the OOD sets in order."""
    classes = measured.prompts.classes
    for scored in (measured.id_set, *measured.ood_sets):
        own = scored is measured.id_set
        scores = {name: scored.table.scores[name].tolist() for name in measured.scores}
        for i, file in enumerate(scored.encoded.images.paths):
            label = classes[int(scored.encoded.labels[i])] if own else None
            prediction = classes[int(scored.table.predictions[i])]
            yield {
                "set": scored.name,
                "role": "id" if own else "ood",
                "path": str(file),
                "label": label.key if label else None,
                "label_name": label.name if label else None,
                "prediction": prediction.key,
                "prediction_name": prediction.name,
                "seed": measured.prompts.config.seed,
                **{name: values[i] for name, values in scores.items()},
            }


def _write_parquet(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = {name: pyarrow.float64() for name in columns[len(COLUMNS) :]} | {"seed": pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns])
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), temporary)
