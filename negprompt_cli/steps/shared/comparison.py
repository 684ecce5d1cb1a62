"""A comparison of evaluated runs: its content, and its form as CSV, Markdown, LaTeX and cells of a table."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from negprompt_cli import schemas
from negprompt_cli.choices import FprConvention
from negprompt_cli.data.results.evaluations import AVERAGE, Row, StreamRow, figure_cells
from negprompt_cli.data.studies.published import Figure
from negprompt_cli.engine.metrics.detection import METRICS
from negprompt_cli.wording import Cell, Span, cell, percent

ALL_RUNS = "all"
"""The name of the run in a line whose figures are the same in every run."""
STREAMS = "Test-time scores, which learn from the test images"
WIDE_COLUMNS = 7
"""Number of columns above which a LaTeX table takes both columns of a two-column page; it would be too small in one."""
FPR_KEYS = {"id-positive": "fpr95_id_positive", "ood-positive": "fpr95_ood_positive"}


@dataclass(frozen=True)
class Line:
    """One score of one run, or of several runs with the same figures: its figures by OOD set.

    `facts`: facts of the run that differ between runs; a dash if several runs share the line.
    """

    run: str
    score: str
    accuracy: float | None
    accuracy_std: float | None
    facts: dict[str, str]
    cells: dict[str, Row]


@dataclass(frozen=True)
class Comparison:
    """Evaluations on the same ID images.

    `sets`: OOD sets in order, with 'average' last if all runs have the same sets. `shared`: facts that are the same for all
    runs. `differing`: the other facts, by run. `sources`: digests and versions of each run. `notes`: notes for the reader.
    `streams`: scores that learn from the test images; they are kept apart, and their rows are `StreamRow`. `paired_with`:
    the run with which the others are compared, score by score and image by image; None if each run is compared with its own
    best baseline.
    """

    id_name: str
    id_images: int
    id_classes: int
    fpr: FprConvention
    sets: tuple[str, ...]
    lines: tuple[Line, ...]
    shared: dict[str, str]
    differing: dict[str, dict[str, str]]
    published: tuple[Figure, ...]
    sources: dict[str, dict[str, Any]]
    notes: tuple[str, ...]
    streams: tuple[Line, ...] = ()
    paired_with: str | None = None

    @property
    def labels(self) -> list[str]:
        """The headings of the columns that name a line."""
        return ["run", "score"] if len(self.differing) > 1 else ["score"]

    def label(self, line: Line) -> list[str]:
        """The name of a line, in these columns."""
        return [getattr(line, heading) for heading in self.labels]

    @property
    def differing_names(self) -> list[str]:
        """Names of the facts that differ."""
        return list(next(iter(self.differing.values())))

    @property
    def accuracy(self) -> str | None:
        """The ID accuracy in per cent if it is the same in all lines, else None."""
        found = {_accuracy(line) for line in self.lines}
        return found.pop() if len(found) == 1 else None

    @property
    def fpr_key(self) -> str:
        """The name of the metric FPR95 in the convention shown."""
        return FPR_KEYS[self.fpr]


def _accuracy(line: Line) -> str:
    return percent(line.accuracy, line.accuracy_std or None)


def caption(comparison: Comparison) -> str:
    """The caption of the table: data, metric, convention, and facts of all rows, in whole sentences."""
    which = "ID" if comparison.fpr == "id-positive" else "OOD"
    shared = ", ".join(f"{key} {_quoted(value)}" for key, value in comparison.shared.items() if value != "-")
    single = f" Run {next(iter(comparison.differing))}." if len(comparison.differing) == 1 else ""
    accuracy = f", accuracy {comparison.accuracy} %" if comparison.accuracy not in (None, "-") else ""
    data = f"{comparison.id_images} images, {comparison.id_classes} classes{accuracy}"
    return (
        f"OOD detection with {comparison.id_name} as ID ({data}): "
        f"AUROC / FPR95 with {which} positive, per cent.{single}" + (f" All rows: {shared}." if shared else "")
    )


def differences(comparison: Comparison) -> list[str]:
    """The facts that differ between the runs, a line for each run."""
    named = {run: [f"{k} {v}" for k, v in facts.items()] for run, facts in comparison.differing.items()}
    return [f"{run}: {', '.join(facts)}" for run, facts in named.items() if facts]


def figures_table(comparison: Comparison, *, facts: bool = True) -> tuple[list[str], list[list[Cell]], int]:
    """The header, the rows, and the number of columns that name a row. The best figures of each column are strong.

    The last columns are AUROC / FPR95 of the OOD sets, after the ID accuracy if that differs between rows.

    Args:
        comparison: the comparison.
        facts: whether there are columns for the facts that differ between the runs.
    """
    names = comparison.differing_names if facts else []
    labels = [*comparison.labels, *names]
    mine = [[line.cells.get(name) for name in comparison.sets] for line in comparison.lines]
    figures = figure_cells(mine, fpr=comparison.fpr_key, intervals=False)
    rows: list[list[Cell]] = []
    for line, cells in zip(comparison.lines, figures, strict=True):
        named = [*comparison.label(line), *(line.facts[name] for name in names)]
        own = [] if comparison.accuracy else [_accuracy(line)]
        rows.append([*map(cell, (*named, *own)), *cells])
    return [*labels, *([] if comparison.accuracy else ["ID acc."]), *comparison.sets], rows, len(labels)


def streams_table(comparison: Comparison) -> tuple[str, list[str], list[list[Cell]]] | None:
    """Scores that learn from the test images, as title, header and rows; None if there are none."""
    if not comparison.streams:
        return None
    rows = [[*map(cell, comparison.label(line)), *_stream_cells(comparison, line)] for line in comparison.streams]
    title = (
        f"{STREAMS}: AUROC / FPR95, per cent, mean ± standard deviation over orders of the images. Do not compare them with "
        "the scores above"
    )
    return title, [*comparison.labels, *comparison.sets], rows


def _stream_cells(comparison: Comparison, line: Line) -> list[Cell]:
    cells: list[Cell] = []
    for name in comparison.sets:
        row = line.cells.get(name)
        if isinstance(row, StreamRow):
            auroc, fpr = row.order_texts(comparison.fpr_key)
            cells.append((Span(auroc), Span(" / "), Span(fpr)))
        else:
            cells.append(cell("-"))
    return cells


def published_table(comparison: Comparison) -> tuple[str, list[str], list[list[Cell]]] | None:
    """The published figures as title, header and rows; None if there are none."""
    if not comparison.published:
        return None
    rows = [
        [cell(f.method), _published_figures(comparison, f), cell(f.needs), cell(f.mark), cell(f.source)]
        for f in comparison.published
    ]
    return "Published for these sets", ["method", "AUROC / FPR95", "needs", "evidence", "source"], rows


def _published_figures(comparison: Comparison, figure: Figure) -> Cell:
    return Span(percent(figure.auroc)), Span(" / "), Span(percent(figure.fpr(comparison.fpr_key)))


def _stream_mark(figure: Figure) -> str:
    return ", sees the test stream" if figure.needs == "test stream" else ""


def _quoted(text: str) -> str:
    """A value as part of a sentence."""
    return f"“{text}”" if "{}" in text else text


def gaps_table(comparison: Comparison) -> tuple[str, list[str], list[list[Cell]]] | None:
    """The paired differences from each run's best baseline, or from the first run, as title, header and rows; or None."""
    ood = comparison.sets[-1] if comparison.sets[-1] == AVERAGE else None
    found = [
        (line, name, row.versus)
        for line in comparison.lines
        for name, row in line.cells.items()
        if row.versus is not None and ood in (None, name)
    ]
    if not found:
        return None
    sets = ood is None
    # One baseline for all is in the title.
    own = comparison.paired_with is None and len({versus.baseline for _, _, versus in found}) > 1
    header = comparison.labels + ["OOD set"] * sets + ["against"] * own + ["AUROC", "p", "FPR95"]
    rows = []
    for line, name, versus in found:
        gap = getattr(versus, comparison.fpr_key)
        labels = comparison.label(line) + [name] * sets + [versus.baseline] * own
        rows.append([cell(text) for text in (*labels, versus.auroc.text(), versus.auroc.p_text(), gap.text())])
    over = "" if sets else ", mean over the OOD sets"
    baseline = "each run's best baseline" if own else f"{found[0][2].baseline}, the best baseline here,"
    whom = baseline if comparison.paired_with is None else f"the same score of {comparison.paired_with}"
    which = "ID" if comparison.fpr == "id-positive" else "OOD"
    title = (
        f"Difference from {whom} on the same images{over}, in points, with "
        f"{100 * found[0][2].level:g} % intervals by DeLong (AUROC) and paired bootstrap (FPR95 with {which} positive)"
    )
    return title, header, rows


def more_tables(comparison: Comparison) -> list[tuple[str, list[str], list[list[Cell]], int | None]]:
    """The tables below the first: title, header, rows, and the number of columns that name a row, if it is known."""
    gaps = gaps_table(comparison)
    found = [
        (streams_table(comparison), len(comparison.labels)),
        (gaps, len(gaps[1]) - 3 if gaps else None),
        (published_table(comparison), None),
    ]
    return [(*table, labels) for table, labels in found if table]


def to_csv(comparison: Comparison) -> str:
    """One line per run, score and OOD set with every metric as a fraction, and then published figures."""
    buffer = io.StringIO()
    facts = [*comparison.shared, *comparison.differing_names]
    gaps = ["auroc", *FPR_KEYS.values()]
    versus = ["baseline", *(f"{metric}_{part}" for metric in gaps for part in ("difference", "low", "high")), "auroc_p"]
    columns = ["run", "score", "ood", "images", "id", "accuracy", *facts, *METRICS, *(f"{m}_std" for m in METRICS)]
    stream = ["sees_test_stream", *(f"{m}_order_std" for m in METRICS)] if comparison.streams else []
    writer = csv.DictWriter(buffer, [*columns, *versus, *stream, "source", "evidence"], lineterminator="\n", restval="")
    writer.writeheader()
    for line in (*comparison.lines, *comparison.streams):
        for name in comparison.sets:
            row = line.cells.get(name)
            if row is None:
                continue
            figures = {metric: row.figure(metric) for metric in METRICS}
            spread = {f"{key}_std": value for key, value in (row.std or {}).items()}
            if isinstance(row, StreamRow):
                spread |= {"sees_test_stream": True, **{f"{key}_order_std": v for key, v in row.order_std.items()}}
            place = {"run": line.run, "score": line.score, "ood": name, "images": row.images}
            own = {"id": comparison.id_name, "accuracy": line.accuracy, **comparison.shared, **line.facts}
            compared: dict[str, Any] = {}
            if row.versus is not None:
                compared = {"baseline": row.versus.baseline, "auroc_p": row.versus.auroc.p}
                for metric in gaps:
                    gap = getattr(row.versus, metric)
                    compared |= {f"{metric}_{part}": getattr(gap, part) for part in ("difference", "low", "high")}
            writer.writerow({**place, **own, **figures, **spread, **compared})
    for figure in comparison.published:
        writer.writerow(
            {
                "run": "published",
                "score": figure.method,
                "ood": AVERAGE,
                "id": comparison.id_name,
                "auroc": figure.auroc,
                "fpr95_id_positive": figure.fpr95,
                "fpr95_ood_positive": figure.fpr95_ood_positive,
                "source": figure.source,
                "evidence": figure.mark,
            }
        )
    return buffer.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """Markdown tables, with the caption above the first and the notes below the last."""
    header, rows, _ = figures_table(comparison)
    parts = [caption(comparison), _markdown(header, rows)]
    for title, header, rows, _ in more_tables(comparison):
        parts += [f"{title}:", _markdown(header, rows)]
    return "\n\n".join([*parts, *remarks(comparison)]) + "\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    def escaped(text: str) -> str:
        return text.replace("|", "\\|")

    table = [list(map(escaped, header)), *([_joined(spans, escaped, "**{}**") for spans in row] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in table]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def to_latex(comparison: Comparison) -> str:
    r"""A LaTeX table with caption and label for the packages booktabs and graphicx: two columns for each OOD set.

    It is never wider than the text. Published figures follow after a rule, and notes are below the table. Paired differences
    have their own table.
    """
    header, rows, labels = figures_table(comparison)
    names = header[:labels]
    labels = len(header) - len(comparison.sets)  # includes the ID accuracy if it is a column
    sets = header[labels:]
    above = [""] * labels + [rf"\multicolumn{{2}}{{c}}{{{_latex(name)}}}" for name in sets]
    rules = "".join(rf"\cmidrule(lr){{{labels + 1 + 2 * i}-{labels + 2 + 2 * i}}}" for i in range(len(sets)))
    below = [_latex(name) for name in header[:labels]] + [r"AUROC $\uparrow$ & FPR95 $\downarrow$"] * len(sets)

    def line(row: Sequence[Cell]) -> str:
        names = [_joined(spans, _latex, r"\textbf{{{}}}") for spans in row[:labels]]
        # AUROC, a slash and FPR95; or only a dash.
        halves = [half for spans in row[labels:] for half in (spans[:1], spans[-1:])]
        return " & ".join([*names, *(_joined(half, _latex, r"\textbf{{{}}}") for half in halves)]) + r" \\"

    body = [line(row) for row in rows]
    if comparison.streams:
        body += [r"\midrule", rf"\multicolumn{{{labels + 2 * len(sets)}}}{{l}}{{{_latex(STREAMS)}}} \\"]
        for one in comparison.streams:
            own = {"run": one.run, "score": one.score, **one.facts}
            beside = [cell(own[name]) for name in names] + [cell("-")] * (labels - len(names))
            body.append(line([*beside, *_stream_cells(comparison, one)]))
    if comparison.published:
        blank = [cell("")] * (len(header) - 2)
        theirs = [
            [cell(f"{f.method} [{f.mark}]{_stream_mark(f)}"), *blank, _published_figures(comparison, f)]
            for f in comparison.published
        ]
        body += [r"\midrule", *map(line, theirs)]
    below_table = _latex(" ".join(remarks(comparison)))
    notes = [rf"\par\smallskip{{\footnotesize\raggedright {below_table}\par}}"] if below_table else []
    head = [" & ".join(above) + r" \\", rules, " & ".join(below) + r" \\"]
    label = f"tab:ood-{_label(comparison.id_name)}"
    columns = "l" * len(names) + "r" * (labels - len(names)) + "rr" * len(sets)
    tables = [_latex_table(caption(comparison), label, columns, head, body, notes)]
    if (gaps := gaps_table(comparison)) is not None:
        title, header, rows = gaps
        columns = "l" * (len(header) - 3) + "rrr"
        lines = [" & ".join(_joined(spans, _latex, r"\textbf{{{}}}") for spans in row) + r" \\" for row in rows]
        head = [" & ".join(map(_latex, header)) + r" \\"]
        tables.append(_latex_table(f"{title}.", f"{label}-differences", columns, head, lines, []))
    return "\n".join([r"% In the preamble: \usepackage{booktabs,graphicx}", *tables])


def _latex_table(
    caption: str, label: str, columns: str, head: Sequence[str], body: Sequence[str], notes: Sequence[str]
) -> str:
    """A floating table: lines of LaTeX between rules. A wide one takes both columns of a two-column page."""
    kind = "table*" if len(columns) > WIDE_COLUMNS else "table"
    lines = [
        rf"\begin{{{kind}}}[t]",
        r"\centering",
        r"\setlength{\tabcolsep}{4pt}\setlength{\abovetopsep}{4pt}",
        rf"\caption{{{_latex(caption)}}}",
        rf"\label{{{label}}}",
        r"\resizebox{\ifdim\width>\linewidth \linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *notes,
        rf"\end{{{kind}}}",
    ]
    return "".join(f"{line}\n" for line in lines)


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
        "test_time": [
            {"run": line.run, **line.facts, **row.document()}
            for line in comparison.streams
            for row in line.cells.values()
        ],
        "published": [figure.model_dump(mode="json") for figure in comparison.published],
        "sources": comparison.sources,
        "notes": list(comparison.notes),
    }


def remarks(comparison: Comparison) -> list[str]:
    """The text below the table: notes, also about published figures."""
    published = dict.fromkeys(f"{f.method}: {f.note}." for f in comparison.published if f.note)
    return [*comparison.notes, *([f"Published: {' '.join(published)}"] if published else [])]


def _joined(spans: Cell, escape: Callable[[str], str], strong: str) -> str:
    """The spans of a cell as one text; strong ones are put into `strong`."""
    return "".join(strong.format(escape(text)) if is_strong else escape(text) for text, is_strong in spans)


def _latex(text: str) -> str:
    special = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
    special |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "…": r"\ldots{}", "$": r"\$"}
    special |= {"“": "``", "”": "''", "<": "$<$", ">": "$>$", "|": r"\textbar{}", "\N{NO-BREAK SPACE}": "~"}
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    # A hyphen before a figure is a minus.
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", "".join(special.get(character, character) for character in text))


def _label(name: str) -> str:
    """A name as part of a LaTeX label: characters other than letters and digits become dashes."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
