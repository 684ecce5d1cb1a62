"""`negprompt compare`: many evaluations as one table."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from negprompt_cli.cli.options import OUTPUT, option


class Format(StrEnum):
    """How the comparison is written."""

    TABLE = "table"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


class Convention(StrEnum):
    """Which class is the positive one in FPR95."""

    ID = "id-positive"
    OOD = "ood-positive"


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or evaluation JSON files.", metavar="RUN...")],
    form: Annotated[Format, option("--format", help="table, csv, markdown or latex.", panel=OUTPUT)] = Format.TABLE,
    scores: Annotated[str | None, option("--scores", help="Only these scores, comma separated.", panel=OUTPUT)] = None,
    fpr: Annotated[
        Convention, option("--fpr", help="FPR95 convention shown: id-positive or ood-positive.", panel=OUTPUT)
    ] = Convention.ID,
    with_published: Annotated[
        bool, option("--published", help="Put published figures beside, with source and evidence.", panel=OUTPUT)
    ] = False,
    as_json: Annotated[bool, option("--json", help="One JSON document on stdout.", panel=OUTPUT)] = False,
    out: Annotated[Path | None, option("--out", help="Write to a file instead of stdout.", panel=OUTPUT)] = None,
    overwrite: Annotated[bool, option("--overwrite", help="Replace the file if it exists.", panel=OUTPUT)] = False,
) -> None:
    """Merge evaluations on the same images into one table; refuse to mix what cannot be compared."""
    from negprompt_cli.data.files.atomic import atomic_write_text
    from negprompt_cli.steps.compare import compare_runs
    from negprompt_cli.steps.shared import comparison_text
    from negprompt_cli.steps.shared.outputs import refuse_existing

    if out:
        refuse_existing(out, overwrite=overwrite)
    chosen = None if scores is None else [s.strip() for s in scores.split(",") if s.strip()]
    comparison = compare_runs(runs, scores=chosen, fpr=fpr.value, with_published=with_published)
    if as_json:
        text = json.dumps(comparison_text.to_document(comparison), indent=1) + "\n"
    elif form is Format.CSV:
        text = comparison_text.to_csv(comparison)
    elif form is Format.MARKDOWN:
        text = comparison_text.to_markdown(comparison)
    elif form is Format.LATEX:
        text = comparison_text.to_latex(comparison)
    else:
        text = _drawn(comparison_text.caption(comparison), *comparison_text.table_cells(comparison))
        text += "".join(f"{remark}\n" for remark in comparison_text.remarks(comparison))
    if out:
        atomic_write_text(out, text)
        typer.echo(str(out))
    else:
        typer.echo(text, nl=False)


def _drawn(title: str, header: list[str], rows: list[list[str]]) -> str:
    """A table in text, as wide as the terminal and never cut where there is none."""
    import io
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for i, column in enumerate(header):
        table.add_column(Text(column), justify="left" if i < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    buffer = io.StringIO()
    terminal = sys.stdout.isatty()
    Console(file=buffer, width=None if terminal else 240, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
