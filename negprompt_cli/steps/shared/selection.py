"""Rows whose verdicts need all images: OOD images selected with a controlled false discovery rate.

Whether an image is selected depends on the p-values of all images, so rows are kept in a temporary file until the last image
is judged, and are then read again. They need only eight bytes of memory each, for the p-value.
"""

import json
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np

from negprompt_cli.data.results.rowfile import Row
from negprompt_cli.engine.metrics.conformal import select_ood

ROWS = 256
"""Number of rows in a batch."""


def selected(batches: Iterator[Sequence[Row]], rate: float) -> Iterator[list[Row]]:
    """Decide `is_ood` of all rows together at a false discovery rate (Benjamini-Hochberg on their p-values).

    Args:
        batches: rows with p-values; rows of broken images have none and are not changed.
        rate: false discovery rate, in (0, 1).

    Yields:
        All rows again, in order.

    Raises:
        UsageError: `rate` is not in (0, 1).
    """
    p = array("d")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape") as waiting:
        for rows in batches:
            for row in rows:
                waiting.write(json.dumps(asdict(row)) + "\n")
                if row.p_value is not None:
                    p.append(row.p_value)
        limit = select_ood(np.frombuffer(p), rate)
        waiting.seek(0)
        decided: list[Row] = []
        for line in waiting:
            row = Row(**json.loads(line))
            decided.append(row if row.p_value is None else replace(row, is_ood=row.p_value <= limit))
            if len(decided) == ROWS:
                yield decided
                decided = []
        if decided:
            yield decided
