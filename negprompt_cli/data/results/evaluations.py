"""The evaluation document: its form, its tables, writing and reading.

Documents are validated when they are read. Values are fractions, not per cent. FPR95 is given in both conventions; the names
say which class is positive.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from negprompt_cli import schemas
from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.results.runs import EVALUATION
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.metrics.detection import OodMetrics
from negprompt_cli.errors import UsageError, first_fault
from negprompt_cli.wording import Cell, Span, cell, percent, some_of

AVERAGE = "average"
"""The name of the row with the means over the OOD sets."""
BELOW_CHANCE = "!"
"""The mark of an AUROC below chance in tables."""
MAX_BYTES = 64 << 20


class _Part(BaseModel):
    # Fields that other versions add are kept and ignored.
    model_config = ConfigDict(extra="allow", frozen=True)

    def document(self) -> dict[str, Any]:
        """Return the part as JSON values, without fields that were not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Model(_Part):
    """The model that was evaluated."""

    name: str
    pretrained: str | None
    weights_sha256: str


class PromptFacts(_Part):
    """The artifact that was evaluated."""

    path: str
    sha256: str
    kind: str
    loss: str | None
    negatives: int
    score_form: str | None = None
    seed: int
    shots: int | None = None
    context: int | None = None
    learned_on_classes: int | None = None


class OodFacts(_Part):
    """The images of one OOD set."""

    images: int
    files_sha256: str | None = None


class IdFacts(OodFacts):
    """The ID images."""

    name: str
    classes: int
    accuracy: float
    accuracy_std: float | None = None
    skipped: tuple[str, ...] = ()


class SeedFacts(_Part):
    """One of the seeds of an average."""

    seed: int
    path: str
    sha256: str
    accuracy: float


class Fpr(_Part):
    """FPR at a recall other than 95 %, in both conventions."""

    id_positive: float
    ood_positive: float


class Gap(_Part):
    """The difference of a metric from the baseline's, with its interval; `p` is its p-value if the method gives one."""

    difference: float
    low: float
    high: float
    p: float | None = None

    def text(self) -> str:
        """Return the difference and interval as `+1.2 [0.3, 2.1]`, in percentage points."""
        return f"{100 * self.difference:+.1f} [{percent(self.low)}, {percent(self.high)}]"

    def p_text(self) -> str:
        """Return the p-value with three decimals, or a dash if there is none."""
        if self.p is None:
            return "-"
        return "< 0.001" if self.p < 0.001 else f"{self.p:.3f}"


class Versus(_Part):
    """The comparison of a score with the best baseline on the same images; `level` is the confidence level."""

    baseline: str
    level: float
    auroc: Gap
    fpr95_id_positive: Gap
    fpr95_ood_positive: Gap


class OfTemplate(_Part):
    """The results of a zero-shot score with one template."""

    template: str
    ood: str
    score: str
    auroc: float
    fpr95_id_positive: float
    fpr95_ood_positive: float


class _Cell(_Part):
    ood: str
    images: int
    score: str


class Row(OodMetrics, _Cell):
    """One score on one OOD set, or the means over the sets.

    `fpr`: FPR by recall. `std`: standard deviation of each metric over seeds, None for a single seed. `ci`: bootstrap
    interval of each metric with confidence level `ci_level`. `versus`: the paired difference from the best baseline.
    """

    oscr: float
    fpr: dict[str, Fpr] | None = None
    ci: dict[str, tuple[float, float]] | None = None
    ci_level: float | None = None
    std: dict[str, float | None] | None = None
    versus: Versus | None = None

    def figure(self, metric: str) -> float | None:
        """Return a metric by its name in `METRICS`."""
        value: float | None = getattr(self, metric)
        return value

    def text(self, fpr: str = "fpr95_id_positive", *, intervals: bool = True) -> str:
        """Return `AUROC / FPR95` in per cent, each with its deviation over seeds or its interval if there is one.

        An AUROC below chance is marked.

        Args:
            fpr: name of FPR95 in one of the two conventions.
            intervals: whether to show intervals, which need much space.
        """
        return " / ".join(self.figure_text(metric, intervals=intervals) for metric in ("auroc", fpr))

    def figure_text(self, metric: str, *, intervals: bool = True) -> str:
        """Return a metric in per cent, with its deviation if it varies over seeds, or its interval if there is one."""
        low, high = ((intervals and self.ci) or {}).get(metric, (None, None))
        interval = "" if low is None else f" [{percent(low)}, {percent(high)}]"
        mark = BELOW_CHANCE if metric == "auroc" and self.auroc < 0.5 else ""
        # A deviation of zero is not shown.
        return percent(self.figure(metric), (self.std or {}).get(metric) or None) + mark + interval


class StreamRow(Row):
    """A test-time score on one OOD set: means over random orders of the test stream, with deviations.

    `orders`: the seeds of the orders. `order_std`: standard deviation of each metric over them; None for a single order.
    """

    sees_test_stream: Literal[True] = True
    orders: tuple[int, ...]
    order_std: dict[str, float | None]

    def order_texts(self, fpr: str = "fpr95_id_positive") -> tuple[str, str]:
        """Return AUROC and FPR95 in per cent, each with its deviation over orders."""
        auroc, share = (percent(self.figure(m), self.order_std.get(m)) for m in ("auroc", fpr))
        return auroc, share


class EvaluationDocument(_Part):
    """One evaluation, of one artifact or of one artifact per seed.

    `skipped`: broken images by OOD set. `options`: constants of the computed scores. `left_out`: requested scores that
    cannot be computed here, with the reason. `templates`: zero-shot scores with other templates. `test_time`: scores that
    learn from the test images; they are separate from all others.
    """

    schema_: str = Field(alias="schema")
    limited: bool
    model: Model
    prompts: PromptFacts
    id: IdFacts
    ood: dict[str, OodFacts] = {}
    skipped: dict[str, tuple[str, ...]] = {}
    temperature: float | None = None
    template: str | None = None
    options: dict[str, Any] = {}
    precision: str | None = None
    device: str | None = None
    versions: dict[str, str] = {}
    decisions: tuple[dict[str, Any], ...] = ()
    left_out: dict[str, str] = {}
    rows: tuple[Row, ...]
    templates: tuple[OfTemplate, ...] = ()
    test_time: tuple[StreamRow, ...] = ()
    seeds: tuple[SeedFacts, ...] = ()

    @property
    def ood_names(self) -> list[str]:
        """Names of the OOD sets, in order, without the average."""
        return list(dict.fromkeys(row.ood for row in self.rows if row.ood != AVERAGE))

    @property
    def scores(self) -> list[str]:
        """Names of the scores, in order."""
        return list(dict.fromkeys(row.score for row in self.rows))

    @property
    def seed_list(self) -> list[int]:
        """The seeds of the results."""
        return [s.seed for s in self.seeds] or [self.prompts.seed]

    @property
    def spread(self) -> str:
        """The end of a table's title: what follows each number in `Row.text`; empty if nothing does."""
        over_seeds = ", mean ± standard deviation over seeds" if self.seeds else ""
        level = next((row.ci_level for row in self.rows if row.ci_level is not None), None)
        return over_seeds + (f", with {100 * level:g} % bootstrap intervals over images" if level is not None else "")

    @property
    def artifacts(self) -> list[str]:
        """The sha256 of the evaluated artifacts, by seed."""
        return [s.sha256 for s in self.seeds] or [self.prompts.sha256]

    @property
    def provenance(self) -> dict[str, Any]:
        """The origin of the results: sha256 of the weights and of the artifacts by seed, and the versions."""
        return {
            "weights_sha256": self.model.weights_sha256,
            "prompts_sha256": self.artifacts,
            "versions": self.versions,
        }

    def row(self, score: str, ood: str) -> Row | None:
        """Return the row of a score and an OOD set (or 'average'), or None."""
        return next((row for row in self.rows if row.score == score and row.ood == ood), None)

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        """Return header and rows of AUROC / FPR95 (ID positive): a row per score, a column per OOD set and average."""
        sets = [*self.ood_names, AVERAGE]
        lines = [[self.row(score, name) for name in sets] for score in self.scores]
        figures = figure_cells(lines)
        return ["score", *sets], [[cell(score), *cells] for score, cells in zip(self.scores, figures, strict=True)]

    def differences(self) -> tuple[str, list[str], list[list[Cell]]] | None:
        """Return title, header and rows of the paired differences from the best baseline; None if there are none.

        Each compared score has a row; with several OOD sets it is for their mean.
        """
        ood = AVERAGE if len(self.ood_names) > 1 else self.ood_names[0]
        found = [(row, row.versus) for row in self.rows if row.ood == ood and row.versus is not None]
        if not found:
            return None
        first = found[0][1]
        over = ", mean over the OOD sets" if ood == AVERAGE else ""
        title = (
            f"Difference from {first.baseline}, the best baseline here, on the same images{over}, in points, with "
            f"{100 * first.level:g} % intervals by DeLong (AUROC) and paired bootstrap (FPR95)"
        )
        rows = [
            [
                cell(text)
                for text in (row.score, versus.auroc.text(), versus.auroc.p_text(), versus.fpr95_id_positive.text())
            ]
            for row, versus in found
        ]
        return title, ["score", "AUROC", "p", "FPR95 (ID positive)"], rows

    def test_time_table(self) -> tuple[str, list[str], list[list[Cell]]] | None:
        """Return title, header and rows of the test-time scores, one row per score; None if there are none."""
        if not self.test_time:
            return None
        sets = list(dict.fromkeys(row.ood for row in self.test_time))
        texts = {(row.score, row.ood): " / ".join(row.order_texts()) for row in self.test_time}
        rows = [
            [cell(score), *(cell(texts[score, ood]) for ood in sets)]
            for score in dict.fromkeys(row.score for row in self.test_time)
        ]
        count = len(self.test_time[0].orders)
        over = "mean ± standard deviation over" if count > 1 else "for"
        title = (
            "Test-time scores, which learn from the test images and are not comparable with the others: AUROC / FPR95 (ID "
            f"positive), per cent, {over} {count} order{'s' if count > 1 else ''} of the stream"
        )
        return title, ["score", *sets], rows

    def template_spread(self) -> tuple[str, list[str], list[list[Cell]]] | None:
        """Return title, header and rows of the lowest and highest results of zero-shot scores over templates, or None."""
        if not self.templates:
            return None
        count = len({one.template for one in self.templates})
        sets = list(dict.fromkeys(one.ood for one in self.templates))
        rows = []
        for score in dict.fromkeys(one.score for one in self.templates):
            texts = []
            for ood in sets:
                mine = [one for one in self.templates if (one.score, one.ood) == (score, ood)]
                ranges = ([one.auroc for one in mine], [one.fpr95_id_positive for one in mine])
                ends = [dict.fromkeys((percent(min(r)), percent(max(r)))) for r in ranges]
                texts.append(" / ".join(map(" to ".join, ends)))
            rows.append([cell(text) for text in (score, *texts)])
        title = f"Over {count} templates, lowest to highest AUROC / FPR95 (ID positive), per cent"
        return title, ["score", *sets], rows


def figure_cells(
    lines: Sequence[Sequence[Row | None]],
    *,
    fpr: str = "fpr95_id_positive",
    intervals: bool = True,
) -> list[list[Cell]]:
    """Return the cells `AUROC / FPR95` of a table, each of three spans; the best of each column, as shown, are strong.

    Args:
        lines: the rows by OOD set; None if there is no result.
        fpr: name of FPR95 in one of the two conventions.
        intervals: whether to show intervals.
    """

    def best(column: int, metric: str, choose: Callable[[Iterable[float]], float]) -> float | None:
        figures = [_shown(row, metric) for line in lines if (row := line[column]) is not None]
        return choose(figures) if len(figures) > 1 else None

    made: list[list[Cell]] = [[] for _ in lines]
    for column in range(len(lines[0]) if lines else 0):
        highest, lowest = best(column, "auroc", max), best(column, fpr, min)
        for i, line in enumerate(lines):
            row = line[column]
            if row is None:
                made[i].append(cell("-"))
                continue
            auroc, share = (row.figure_text(metric, intervals=intervals) for metric in ("auroc", fpr))
            best_auroc, best_share = _shown(row, "auroc") == highest, _shown(row, fpr) == lowest
            made[i].append((Span(auroc, best_auroc), Span(" / "), Span(share, best_share)))
    return made


def _shown(row: Row, metric: str) -> float:
    """Return a metric in per cent, rounded as in tables."""
    return round(100 * (row.figure(metric) or 0.0), 1)


def below_chance(rows: Iterable[Row]) -> Decision | None:
    """Return a decision about scores whose AUROC is below chance, or None if there are none."""
    cells = [(row.score, row.ood, row.auroc) for row in rows if row.ood != AVERAGE and row.auroc < 0.5]
    if not cells:
        return None
    said = (
        f"AUROC below 50 % ({BELOW_CHANCE}), worse than chance: "
        + some_of([f"{score} on {ood} ({percent(auroc)})" for score, ood, auroc in cells])
        + ". There the score ranks OOD images above ID images, so it does not detect OOD images."
    )
    facts = {"cells": [{"score": score, "ood": ood, "auroc": auroc} for score, ood, auroc in dict.fromkeys(cells)]}
    return Decision("score-below-chance", said, facts, warning=True)


def save_evaluation(path: Path, document: EvaluationDocument) -> None:
    """Write an evaluation document.

    Raises:
        NegPromptError: the file cannot be written.
    """
    atomic_write_text(path, json.dumps(document.document(), indent=1) + "\n")


def evaluation_path(run: Path) -> Path:
    """Return the path of the evaluation document of a run folder, or of the document itself.

    Raises:
        UsageError: it does not exist.
    """
    path = run / EVALUATION if run.is_dir() else run
    if not path.is_file():
        raise UsageError(
            f"No evaluation at {path}. Give a run folder with {EVALUATION}, or the JSON file of an evaluation.",
            remedy="evaluate",
        )
    return path


def load_evaluation(path: Path) -> EvaluationDocument:
    """Read an evaluation document.

    Raises:
        UsageError: the file is not readable, not JSON, or not an evaluation; the message names the file and the field.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than 64 MiB, so it is not an evaluation.")
        values: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not readable as an evaluation ({error}).") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != schemas.EVALUATION:
        raise UsageError(f"{path} is not an evaluation of schema {schemas.EVALUATION} (found: {schema or 'none'}).")
    try:
        return EvaluationDocument.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{path} is not a valid evaluation: {first_fault(error)}.") from None
