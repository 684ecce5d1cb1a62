"""`negprompt report`: one HTML page and pictures of evaluated runs, or of files of scores."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from negprompt_cli import schemas
from negprompt_cli.cli import completion
from negprompt_cli.cli.options import Common, only, option, split_commas
from negprompt_cli.errors import UsageError

EXAMPLES = (
    "negprompt report --run runs/photos",
    "negprompt report rows.csv --out page",
    "negprompt report runs/a runs/b --out page --formats png --map pca",
)


class Map(StrEnum):
    """How images and prompts are laid out."""

    TSNE = "tsne"
    PCA = "pca"


def report(
    common: Annotated[Common, only("device", "overwrite", "json", "quiet")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, evaluations (JSON), or files of scores.", metavar="[RUN...]"),
    ] = None,
    run: Annotated[Path | None, option("--run", help="Run folder, the same as RUN.")] = None,
    out: Annotated[Path | None, option("--out", help="Folder of the page (default <first run>/report).")] = None,
    score: Annotated[
        str | None,
        option(
            "--score",
            autocompletion=completion.scores,
            help="Score of the gallery and the class table (default negprompt).",
        ),
    ] = None,
    scores: Annotated[
        str | None,
        option(
            "--scores",
            autocompletion=completion.scores,
            help="Scores of the pictures, separated by commas (default all).",
        ),
    ] = None,
    formats: Annotated[str, option("--formats", help="Kinds of picture files (default png,svg,pdf).")] = "png,svg,pdf",
    layout: Annotated[Map, option("--map", help="Method of the map of images and prompts (default tsne).")] = Map.TSNE,
    data_root: Annotated[
        str | None,
        option("--data-root", help="Folder of the named data sets, if they moved.", envvar="NEGPROMPT_DATA_ROOT"),
    ] = None,
) -> None:
    """Write one HTML page, with pictures, about evaluated runs.

    The page needs no other file and no network; the pictures are beside it as PNG, SVG and PDF. Files that `evaluate
    --save-scores` or `score --out` wrote are reported as well.
    """
    talk = common.talk()
    from negprompt_cli.steps.report import ReportOptions, run_report

    options = ReportOptions(
        score=score,
        scores=None if scores is None else tuple(split_commas(scores)),
        formats=tuple(split_commas(formats)),
        map_kind=layout.value,
        device=common.device,
        data_root=data_root,
    )
    from negprompt_cli.data.results.provenance import versions

    found = [*(sources or ()), *([run] if run else ())]
    if not found:
        raise UsageError("There is nothing to report. Name a run folder, or a file of scores.")
    first = found[0] if found[0].is_dir() else found[0].parent
    page = run_report(found, out or first / "report", options, overwrite=common.overwrite, progress=talk)
    pictures = sorted(str(p) for p in (page.parent / "figures").glob("*"))
    document = {"schema": schemas.REPORT, "path": str(page), "pictures": pictures, "versions": versions()}
    talk.result(page, document)
