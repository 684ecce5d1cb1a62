"""A comparison of evaluated runs: what it holds, and its texts as CSV, Markdown, LaTeX and cells of a table."""

import csv
import io
from dataclasses import dataclass
from typing import Any, Literal

from negprompt_cli import schemas
from negprompt_cli.data.results.evaluations import AVERAGE, Row
from negprompt_cli.data.studies.published import Figure
from negprompt_cli.engine.metrics.detection import METRICS
from negprompt_cli.wording import percent

FprConvention = Literal["id-positive", "ood-positive"]
FPR_KEYS = {"id-positive": "fpr95_id_positive", "ood-positive": "fpr95_ood_positive"}


@dataclass(frozen=True)
class Line:
    """One score of one run: its figures by OOD set."""

    run: str
    score: str
    accuracy: float
    accuracy_std: float | None
    facts: dict[str, str]
    cells: dict[str, Row]


@dataclass(frozen=True)
class Comparison:
    """Evaluations on the same ID images.

    `sets`: OOD sets in order, with 'average' last where all runs have the same sets. `shared`: facts that hold for all.
    `differing`: names of facts that do not. `sources`: digests and versions behind each run. `notes`: what a reader must
    know.
    """

    id_name: str
    id_images: int
    id_classes: int
    fpr: FprConvention
    sets: tuple[str, ...]
    lines: tuple[Line, ...]
    shared: dict[str, str]
    differing: tuple[str, ...]
    published: tuple[Figure, ...]
    sources: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


def caption(comparison: Comparison) -> str:
    """What the table is of, in one line: data, metric and convention, and what holds for all rows."""
    which = "ID" if comparison.fpr == "id-positive" else "OOD"
    shared = ", ".join(f"{key} {value}" for key, value in comparison.shared.items() if value != "-")
    return (
        f"ID {comparison.id_name} ({comparison.id_images} images, {comparison.id_classes} classes). AUROC / FPR95 with "
        f"{which} positive, per cent. {shared}"
    ).rstrip()


def table_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table: run, score, what differs, ID accuracy, and AUROC / FPR95 per OOD set."""
    header = ["run", "score", *comparison.differing, "ID acc.", *comparison.sets]
    rows = []
    for line in comparison.lines:
        found = [line.cells.get(name) for name in comparison.sets]
        cells = ["-" if row is None else row.text(FPR_KEYS[comparison.fpr], intervals=False) for row in found]
        accuracy = percent(line.accuracy, line.accuracy_std)
        rows.append([line.run, line.score, *line.facts.values(), accuracy, *cells])
    blank = ["-"] * (len(header) - 3)
    for figure in comparison.published:
        fpr = percent(figure.fpr95 if comparison.fpr == "id-positive" else None)
        rows.append([f"published [{figure.mark}]", figure.method, *blank, f"{percent(figure.auroc)} / {fpr}"])
    return header, rows


def to_csv(comparison: Comparison) -> str:
    """One line per run, score and OOD set with every metric as a fraction, and published figures behind."""
    buffer = io.StringIO()
    facts = [*comparison.shared, *comparison.differing]
    columns = ["run", "score", "ood", "images", "id", "accuracy", *facts, *METRICS, *(f"{m}_std" for m in METRICS)]
    writer = csv.DictWriter(buffer, [*columns, "source", "evidence"], lineterminator="\n", restval="")
    writer.writeheader()
    for line in comparison.lines:
        for name in comparison.sets:
            row = line.cells.get(name)
            if row is None:
                continue
            figures = {metric: row.figure(metric) for metric in METRICS}
            spread = {f"{key}_std": value for key, value in (row.std or {}).items()}
            place = {"run": line.run, "score": line.score, "ood": name, "images": row.images}
            own = {"id": comparison.id_name, "accuracy": line.accuracy, **comparison.shared, **line.facts}
            writer.writerow({**place, **own, **figures, **spread})
    for figure in comparison.published:
        writer.writerow(
            {
                "run": "published",
                "score": figure.method,
                "ood": AVERAGE,
                "id": comparison.id_name,
                "auroc": figure.auroc,
                "fpr95_id_positive": figure.fpr95,
                "source": figure.source,
                "evidence": figure.mark,
            }
        )
    return buffer.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """A Markdown table with its caption above and its notes below."""
    header, rows = table_cells(comparison)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in escaped) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in escaped]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n\n".join([caption(comparison), "\n".join(lines), *remarks(comparison)]) + "\n"


def to_latex(comparison: Comparison) -> str:
    """A LaTeX table for the booktabs package."""
    header, rows = table_cells(comparison)
    facts = 2 + len(comparison.differing)
    body = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(' '.join([caption(comparison), *remarks(comparison)]))}}}",
            r"\centering",
            rf"\begin{{tabular}}{{{'l' * facts}{'r' * (len(header) - facts)}}}",
            r"\toprule",
            " & ".join(_latex(cell) for cell in header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as one JSON document, figures as fractions."""
    return {
        "schema": schemas.COMPARISON,
        "id": {"name": comparison.id_name, "images": comparison.id_images, "classes": comparison.id_classes},
        "fpr": comparison.fpr,
        "shared": comparison.shared,
        "rows": [
            {
                "run": line.run,
                "accuracy": line.accuracy,
                "accuracy_std": line.accuracy_std,
                **line.facts,
                **line.cells[name].document(),
            }
            for line in comparison.lines
            for name in comparison.sets
            if name in line.cells
        ],
        "published": [figure.model_dump(mode="json") for figure in comparison.published],
        "sources": comparison.sources,
        "notes": list(comparison.notes),
    }


def remarks(comparison: Comparison) -> list[str]:
    """The text below the table: notes, and the sources of published figures."""
    sources = dict.fromkeys(f"{f.method}: {f.source}{f' ({f.note})' if f.note else ''}" for f in comparison.published)
    return [*comparison.notes, *(["Published: " + "; ".join(sources) + "."] if sources else [])]


def _latex(text: str) -> str:
    special = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
    special |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "…": r"\ldots{}"}
    return "".join(special.get(character, character) for character in text)
