"""`negprompt report`: an HTML page and pictures of evaluated runs, or of files of scores."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from negprompt_cli import schemas
from negprompt_cli.cli.options import Common, MovedRoot, only, option, score_option, split_commas
from negprompt_cli.errors import UsageError

EXAMPLES = (
    "negprompt report --run runs/photos",
    "negprompt report rows.csv --out page",
    "negprompt report runs/a runs/b --out page --formats png --map pca",
)


class Map(StrEnum):
    """Method of the map of images and prompts."""

    TSNE = "tsne"
    PCA = "pca"


def report(
    common: Annotated[Common, only("device", "overwrite", "json", "quiet")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, evaluations (JSON), or files of scores.", metavar="RUN"),
    ] = None,
    run: Annotated[Path | None, option("--run", help="Run folder, another way to give RUN.", metavar="DIR")] = None,
    out: Annotated[
        Path | None, option("--out", help="Folder for the page (default <first run>/report).", metavar="DIR")
    ] = None,
    score: Annotated[str | None, score_option("Score for the gallery and the class table (default negprompt).")] = None,
    scores: Annotated[
        str | None,
        score_option("Scores for the pictures, separated by commas (default all).", "--scores", metavar="NAMES"),
    ] = None,
    formats: Annotated[
        str, option("--formats", help="Formats of picture files (default png,svg,pdf).", metavar="NAMES")
    ] = "png,svg,pdf",
    layout: Annotated[Map, option("--map", help="Method of the map of images and prompts (default tsne).")] = Map.TSNE,
    data_root: MovedRoot = None,
) -> None:
    """Write an HTML page with pictures about evaluated runs.

    The page needs no other file and no network. The pictures are also written next to it as PNG, SVG and PDF. Instead of a
    run, RUN may be a file that `evaluate --save-scores` or `score --out` wrote.
    """
    talk = common.talk()
    from negprompt_cli.config import Config
    from negprompt_cli.steps.report import ReportOptions, run_report
    from negprompt_cli.steps.shared.workbench import Workbench

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
    bench = Workbench(Config(), talk)
    first = found[0] if found[0].is_dir() else found[0].parent
    page = run_report(bench, found, out or first / "report", options, overwrite=common.overwrite)
    pictures = sorted(str(p) for p in (page.parent / "figures").glob("*"))
    document = {"schema": schemas.REPORT, "path": str(page), "pictures": pictures, "versions": versions()}
    talk.result(page, document)
