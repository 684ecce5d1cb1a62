"""Averages of evaluations: over OOD sets, over seeds, and over orders of the test stream."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from negprompt_cli.data.results.evaluations import (
    AVERAGE,
    EvaluationDocument,
    Fpr,
    Row,
    SeedFacts,
    StreamRow,
)
from negprompt_cli.engine.metrics.detection import METRICS

SomeRow = TypeVar("SomeRow", bound=Row)


def average_over_sets(rows: Sequence[Row]) -> Row:
    """Return the row of means over the OOD sets, without intervals, because these cannot be averaged."""
    return _mean_row(rows, ood=AVERAGE, images=sum(row.images for row in rows))


def average_over_seeds(documents: Sequence[EvaluationDocument]) -> EvaluationDocument:
    """Average the evaluation documents of several seeds.

    Args:
        documents: documents of one seed each, on the same images with the same scores.

    Returns:
        The first document with means over all. Every row has `std` and `id` has `accuracy_std` (sample standard deviations
        with n - 1; None for one seed), and `seeds` lists the seeds. It is limited if one of them is.
    """
    first = documents[0]
    rows = [row_over_seeds(cells) for cells in _by_cell([document.rows for document in documents])]
    streams = []
    for cells in _by_cell([document.test_time for document in documents]):
        deviations = {m: _mean([cell.order_std[m] for cell in cells]) for m in METRICS}
        streams.append(_stream_row(row_over_seeds(cells), cells[0].orders, deviations))
    accuracies = [document.id.accuracy for document in documents]
    spread = {"accuracy": statistics.fmean(accuracies), "accuracy_std": _deviation(accuracies)}
    return first.model_copy(
        update={
            "limited": any(document.limited for document in documents),
            "decisions": tuple({json.dumps(d): d for document in documents for d in document.decisions}.values()),
            "id": first.id.model_copy(update=spread),
            "seeds": tuple(
                SeedFacts(seed=d.prompts.seed, path=d.prompts.path, sha256=d.prompts.sha256, accuracy=d.id.accuracy)
                for d in documents
            ),
            "rows": tuple(rows),
            "test_time": tuple(streams),
        }
    )


def row_over_seeds(rows: Sequence[Row]) -> Row:
    """Average a score's rows on one OOD set over seeds; the deviations are None for one seed."""
    deviations = {metric: _deviation([row.figure(metric) for row in rows]) for metric in METRICS}
    return _mean_row(rows, ood=rows[0].ood, images=rows[0].images, std=deviations)


def over_orders(rows: Sequence[Row], orders: Sequence[int]) -> StreamRow:
    """Average the rows of a test-time score over orders of the stream, with deviations.

    Args:
        rows: rows of one score and OOD set, one per order.
        orders: the seeds of the orders.
    """
    mean = _mean_row(rows, ood=rows[0].ood, images=rows[0].images)
    return _stream_row(mean, orders, {m: _deviation([row.figure(m) for row in rows]) for m in METRICS})


def _stream_row(row: Row, orders: Sequence[int], deviations: Mapping[str, float | None]) -> StreamRow:
    more = {"sees_test_stream": True, "orders": tuple(orders), "order_std": dict(deviations)}
    return StreamRow.model_validate({**row.document(), **more})


def _by_cell(columns: Sequence[Sequence[SomeRow]]) -> list[list[SomeRow]]:
    """Group the rows of the same score and OOD set in all columns, in the order of the first column."""
    found = [{(row.score, row.ood): row for row in column} for column in columns]
    return [[column[key] for column in found] for key in found[0]]


def _mean_row(cells: Sequence[Row], *, ood: str, images: int, **more: Any) -> Row:
    """Return a row with the means of metrics and of `fpr`; a mean is None if one of its values is."""
    if cells[0].fpr is not None:
        fprs = [cell.fpr or {} for cell in cells]
        more["fpr"] = {
            recall: Fpr(**{side: statistics.fmean(getattr(f[recall], side) for f in fprs) for side in Fpr.model_fields})
            for recall in fprs[0]
        }
    means = {metric: _mean([cell.figure(metric) for cell in cells]) for metric in METRICS}
    return Row.model_validate({"ood": ood, "images": images, "score": cells[0].score, **means, **more})


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return statistics.fmean(numbers) if len(numbers) == len(values) else None


def _deviation(values: Sequence[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return statistics.stdev(numbers) if len(numbers) == len(values) and len(numbers) > 1 else None
