"""`negprompt compare`: several evaluations in one table."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from negprompt_cli.choices import FprConvention
from negprompt_cli.cli import completion
from negprompt_cli.cli.console import hanging, table_text
from negprompt_cli.cli.options import Common, argument, flag, only, option, split_commas

EXAMPLES = (
    "negprompt compare runs/a runs/b",
    "negprompt compare runs/* --format latex --out table.tex",
    "negprompt compare a.csv b.csv",
)


def compare(
    common: Annotated[Common, only("overwrite", "json", "quiet")],
    runs: list[Path] = argument(
        "RUN...", "Run folders or evaluation JSON files; or files of evaluate --save-scores, to compare image by image."
    ),
    form: Literal["table", "csv", "markdown", "latex"] = option(
        "table (default), csv, markdown or latex.", name="--format", metavar="FORMAT", default="table"
    ),
    scores: str | None = option(
        "Show only these scores, separated by commas.", metavar="NAMES", autocompletion=completion.scores
    ),
    fpr: FprConvention = option(
        "Convention of FPR95: id-positive (default) or ood-positive.", metavar="NAME", default="id-positive"
    ),
    with_published: bool = flag(
        "Add published figures, with their sources and how they were verified.", name="--published"
    ),
    out: Path | None = option("File to write instead of stdout."),
) -> None:
    """Merge evaluations on the same images into one table.

    Evaluations on different images are refused, and so are trials with --limit. Files of `evaluate --save-scores` are
    compared image by image with the first one: DeLong's test for AUROC and the paired bootstrap for FPR95.
    """
    from negprompt_cli.data.files.atomic import atomic_write_text
    from negprompt_cli.steps.compare import compare_runs
    from negprompt_cli.steps.shared import comparison as texts

    if out:
        from negprompt_cli.steps.shared.outputs import refuse_existing

        refuse_existing(out, overwrite=common.overwrite)
    chosen = None if scores is None else split_commas(scores)
    comparison = compare_runs(runs, scores=chosen, fpr=fpr, with_published=with_published)
    if common.json:
        text = json.dumps(texts.to_document(comparison), indent=1) + "\n"
    elif form == "csv":
        text = texts.to_csv(comparison)
    elif form == "markdown":
        text = texts.to_markdown(comparison)
    elif form == "latex":
        text = texts.to_latex(comparison)
    else:
        columns, rows, names = texts.figures_table(comparison, facts=False)
        text = table_text(texts.caption(comparison), columns, rows, labels=names)
        for title, columns, rows, labels in texts.more_tables(comparison):
            text += "\n" + table_text(title, columns, rows, labels=labels)
        text += "\n"
        for remark in (*texts.differences(comparison), *texts.remarks(comparison)):
            text += f"{hanging('', remark)}\n"
    if out:
        atomic_write_text(out, text)
        common.talk().made(out)
    else:
        typer.echo(text, nl=False)
