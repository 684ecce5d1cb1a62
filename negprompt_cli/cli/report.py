"""`negprompt report`: an HTML page and pictures of evaluated runs, or of files of scores."""

from pathlib import Path
from typing import Annotated

from negprompt_cli import schemas
from negprompt_cli.choices import MapKind
from negprompt_cli.cli import completion
from negprompt_cli.cli.options import MOVED_ROOT, Common, argument, only, option, split_commas
from negprompt_cli.errors import UsageError

EXAMPLES = (
    "negprompt report --run runs/photos",
    "negprompt report rows.csv --out page",
    "negprompt report runs/a runs/b --out page --formats png --map pca",
)


def report(
    common: Annotated[Common, only("device", "overwrite", "json", "quiet")],
    sources: list[Path] | None = argument("RUN", "Run folders, evaluations (JSON), or files of scores.", default=None),
    run: Path | None = option("Run folder, another way to give RUN.", metavar="DIR"),
    out: Path | None = option("Folder for the page (default <first run>/report).", metavar="DIR"),
    score: str | None = option(
        "Score for the gallery and the class table (default negprompt).", autocompletion=completion.scores
    ),
    scores: str | None = option(
        "Scores for the pictures, separated by commas (default all).", metavar="NAMES", autocompletion=completion.scores
    ),
    formats: str = option("Formats of picture files (default png,svg,pdf).", metavar="NAMES", default="png,svg,pdf"),
    layout: MapKind = option("Method of the map of images and prompts (default tsne).", name="--map", default="tsne"),
    data_root: str | None = MOVED_ROOT,
) -> None:
    """Write an HTML page with pictures about evaluated runs.

    The page needs no other file and no network. The pictures are also written next to it as PNG, SVG and PDF. Instead of a
    run, RUN may be a file that `evaluate --save-scores` or `score --out` wrote.
    """
    talk = common.talk()
    from negprompt_cli.data.results.evaluations import evaluation_path

    found = [*(sources or ()), *([run] if run else ())]
    if not found:
        raise UsageError("There is nothing to report. Name a run folder, or a file of scores.")
    for source in found:
        if not source.is_file():
            evaluation_path(source)
    from negprompt_cli.config import Config
    from negprompt_cli.data.results.provenance import versions
    from negprompt_cli.steps.report import ReportOptions, run_report
    from negprompt_cli.steps.shared.workbench import Workbench

    options = ReportOptions(
        score=score,
        scores=None if scores is None else tuple(split_commas(scores)),
        formats=tuple(split_commas(formats)),
        map_kind=layout,
        device=common.device,
        data_root=data_root,
    )
    bench = Workbench(Config(), talk)
    first = found[0] if found[0].is_dir() else found[0].parent
    page = run_report(bench, found, out or first / "report", options, overwrite=common.overwrite)
    pictures = sorted(str(p) for p in (page.parent / "figures").glob("*"))
    document = {"schema": schemas.REPORT, "path": str(page), "pictures": pictures, "versions": versions()}
    talk.result(page, document)
