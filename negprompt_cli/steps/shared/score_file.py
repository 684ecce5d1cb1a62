"""The scores of single images as a file: CSV, JSON lines or Parquet, by the suffix.

Each row is an image: its set, role (id or ood), path, true class and predicted class (key and name each; an OOD image has no
true class), the seed of the prompts, and every score as a float64 that is read back exactly. pyarrow writes Parquet; it is
an extra (`pip install negprompt[parquet]`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from negprompt_cli.data.results.tables import form_of, write_table
from negprompt_cli.steps.shared.measure import Measured
from negprompt_cli.steps.shared.outputs import refuse_existing
from negprompt_cli.steps.shared.scored_sets import COLUMNS


def check_score_file(path: Path, *, overwrite: bool) -> None:
    """Check, before any work, that a file of scores can be written.

    Raises:
        UsageError: the suffix is unknown, pyarrow is missing for Parquet, or the file exists and `overwrite` is false.
    """
    form_of(path)
    refuse_existing(path, overwrite=overwrite)


def save_scores(path: Path, measured: Sequence[Measured]) -> None:
    """Write one row per image and artifact; `check_score_file` checks the path."""
    kinds = {**dict.fromkeys(COLUMNS, str), "seed": int, **dict.fromkeys(measured[0].scores, float)}
    write_table(path, form_of(path), kinds, (row for one in measured for row in image_rows(one)))


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
