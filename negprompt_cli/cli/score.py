"""`negprompt score`: the class of each image, and whether it is OOD."""

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli import schemas
from negprompt_cli.cli.console import PLAIN_SECONDS, Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import SCORE, THRESHOLD, Common, Without, argument, flag, option
from negprompt_cli.data.results.runs import NEGATIVE
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import some_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from negprompt_cli.config import Asked, Config
    from negprompt_cli.steps.score import ScoreSummary
    from negprompt_cli.steps.shared.score_page import PageRows
    from negprompt_cli.steps.shared.verdicts import Judge, Verdicts

EXAMPLES = (
    "negprompt score --prompts runs/photos/negative.safetensors new",
    "negprompt score --run runs/photos new --out rows.csv --report page.html",
    "find new -name '*.jpg' | negprompt score --run runs/photos - --fail-on-ood",
)

SHIFT_LEVEL = 0.05
"""False alarm rate of --batch-verdict, if no other was given."""
OOD_FOUND = 3
"""Exit code of --fail-on-ood if an image is OOD."""
NOT_JUDGED = 4
"""Exit code of --fail-on-ood if no image is OOD, but some could not be judged."""
SHIFTED = 5
"""Exit code of --fail-on-shift if the images have shifted."""


class Format(StrEnum):
    """Format of the rows."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


class _Counter:
    """Prints the number of images now and then; the total is unknown, and rows may be on the terminal too."""

    def __init__(self, talk: Talk) -> None:
        self._talk, self._done = talk, 0
        self._started = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count images."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            self._talk.say(f"{self._done} images, {self._done / (now - self._started):.3g}/s {note}".rstrip())


def score(
    common: Annotated[Common, Without("class_names", "catalogue", "verbose")],
    paths: list[str] = argument(
        "PATHS", "Images, folders, lists, tar or Parquet files, hf:NAME, globs, or - for a list on stdin."
    ),
    prompts: Path | None = option("Prompt artifact (default <run>/negative.safetensors) or an exported .onnx file."),
    classes: Path | None = option("Class names to use without an artifact: text, CSV, JSON or YAML."),
    score_name: str | None = SCORE,
    threshold: float | None = THRESHOLD,
    form: Format | None = option("Format of the rows (default: by the suffix of --out, else csv).", name="--format"),
    out: Path | None = option("File to write the rows to instead of stdout."),
    report: Path | None = option("Also write an HTML page with the images.", metavar="PAGE.html"),
    append: bool = flag("Add rows to --out for images that have no row yet."),
    sort_into: Path | None = option("Link images into DIR/id/<class> and DIR/ood.", metavar="DIR"),
    copy: bool = flag("Copy images instead of linking them."),
    fail_on_ood: bool = flag("Exit with 3 if an image is OOD, else with 4 if one could not be judged."),
    fdr: float | None = option(
        "Choose the OOD images so that the expected share of ID images among them is at most this.", metavar="SHARE"
    ),
    batch_verdict: bool = flag("Test whether all images together differ from the ID images."),
    level: float | None = option("False alarm rate of that test (default 0.05).", metavar="RATE"),
    fail_on_shift: bool = flag("Exit with 5 if that test finds a shift."),
) -> None:
    """Predict each image's class and decide whether it is OOD.

    Rows are written in the order of the images. The row of a broken image has its error. The rows of an interrupted run are
    in FILE.part, and --append adds the missing ones.
    """
    talk = common.talk()
    _check(common, prompts, classes, out, report, append=append, copy=copy, sort_into=sort_into)
    _check_rates(fdr, level, append=append, threshold=threshold, tested=batch_verdict or fail_on_shift)
    opening = None
    if prompts and prompts.suffix.lower() == ".onnx":
        from negprompt_cli.data.files.onnx_session import begin_opening

        # It takes about as long as importing what follows, and both can be done at once.
        opening = begin_opening(prompts)
    from negprompt_cli.data.results.rowfile import (
        KnownPaths,
        RowFile,
        TextSink,
        Totals,
        check_row_file,
        row_file,
        row_form,
    )
    from negprompt_cli.data.sets.filekinds import LeftOut
    from negprompt_cli.data.sets.pathlist import check_paths, list_paths, stdin_names
    from negprompt_cli.steps.score import (
        Sorting,
        check_same_run,
        check_sorting,
        require_calibration,
        require_threshold,
        run_score,
    )

    chosen = row_form(out, form.value if form else None)
    if out:
        check_row_file(out, chosen, append=append, overwrite=common.overwrite)
    if report:
        from negprompt_cli.report.page import check_page
        from negprompt_cli.steps.shared.score_page import PageRows

        check_page(report, overwrite=common.overwrite or append)
    if sort_into:
        check_sorting(sort_into, paths, append=append)
    for decision in check_paths(paths):
        talk.decide(decision)
    asked = common.asked()
    config, judge = _detector(common, asked, talk, prompts, opening, classes, score_name, threshold)
    verdicts = judge.verdicts
    if fail_on_ood and fdr is None:
        require_threshold(verdicts, "--fail-on-ood")
    if fdr is not None:
        require_calibration(verdicts, "a selection with a false discovery rate")
    if batch_verdict or fail_on_shift:
        require_calibration(verdicts, "a verdict on all images together")
    sorting = None
    if sort_into:
        file_of = None if classes else prompts or common.run_folder(asked) / NEGATIVE
        sorting = Sorting(sort_into, copy, (file_of, verdicts.prompts_sha256) if file_of else None)
    left_out = LeftOut()
    started = time.monotonic()
    rows = (
        row_file(out, chosen, append=append)
        if out
        else nullcontext(RowFile(TextSink(sys.stdout.buffer, chosen), KnownPaths(), Totals()))
    )
    with rows as file:
        if out and file.before.images:
            check_same_run(file.before, verdicts, out)
        if file.cut:
            said = f"The last row of {out} was incomplete and was removed."
            talk.decide(Decision("files-left-out", said, {"file": str(out), "rows": 1}))
        page = PageRows(file.sink) if report else None
        summary = run_score(
            judge,
            list_paths(paths, stdin_names(sys.stdin.buffer), left_out),
            page or file.sink,
            limit=config.data.limit,
            known=file.known,
            sorting=sorting,
            # By default a broken image gets a row with its error.
            stop_on_error=asked.given("data.on_error") == "stop",
            fdr=fdr,
            shift_level=(level or SHIFT_LEVEL) if batch_verdict or fail_on_shift else None,
            task=_Counter(talk),
        )
    if told := left_out.told():
        talk.decide(Decision("files-left-out", f"Left out: {told}", {"reasons": left_out.by_reason()}))
    if not summary.images + summary.known:
        talk.decide(Decision("other", "There are no images, so nothing was judged.", {"images": 0}, warning=True))
    before, unreadable = file.before, sum(left_out.by_reason().get("unreadable", {}).values())
    _tell_unjudged(talk, summary, unreadable)
    _summarise(talk, verdicts, summary, time.monotonic() - started, fdr=fdr)
    total = {
        "images": summary.images + before.images,
        "broken": summary.broken + before.broken,
        "ood": None if verdicts.threshold is None and fdr is None else summary.ood + before.ood,
    }
    if before.images:
        found = "" if total["ood"] is None else f", {total['ood']} of them OOD"
        talk.say(f"{out} now has rows of {total['images']} images{found}, {total['broken']} of them broken.")
    if report and page:
        _write_page(report, page, verdicts, summary, config, paths, add=out if before.images else None, fdr=fdr)
        talk.say(f"A page with the images, on which you can try other thresholds: {report}")
    if out:
        document = _document(verdicts, summary, out, limited=config.data.limit is not None, fdr=fdr)
        document |= {"report": str(report) if report else None}
        talk.result(out, {**document, "not_judged": (total["broken"] or 0) + unreadable, "total": total})
    if fail_on_ood and total["ood"]:
        raise typer.Exit(OOD_FOUND)
    if fail_on_ood and (total["broken"] or unreadable):
        raise typer.Exit(NOT_JUDGED)
    if fail_on_shift and summary.delivery and summary.delivery.shifted:
        raise typer.Exit(SHIFTED)


def _write_page(
    path: Path,
    rows: "PageRows",
    verdicts: "Verdicts",
    summary: "ScoreSummary",
    config: "Config",
    paths: list[str],
    *,
    add: Path | None,
    fdr: float | None,
) -> None:
    """Write the page of the rows, or of all rows in the file `add`, which also has those of earlier runs."""
    from negprompt_cli.data.results.rowfile import read_rows
    from negprompt_cli.steps.shared.score_page import PageRows, judged_by, write_score_page

    if add:
        rows = PageRows()
        rows.write(read_rows(add))
    judged = judged_by(verdicts, fdr=fdr, delivery=summary.delivery, limited=config.data.limit is not None)
    title = f"Scored images: {some_of(['a list' if name == '-' else name for name in paths], 3)}"
    write_score_page(path, rows, judged, title=title, rules=config.model.pixels)


def _detector(
    common: Common,
    asked: "Asked",
    talk: Talk,
    prompts: Path | None,
    opening: "Future[Any] | None",
    classes: Path | None,
    score_name: str | None,
    threshold: float | None,
) -> "tuple[Config, Judge]":
    """The configuration, and the detector: an exported file, or prompts with their model.

    Raises:
        UsageError: the detector is missing or invalid, or does not support an option.
    """
    if prompts and opening:
        from negprompt_cli.data.results.exported import open_exported
        from negprompt_cli.steps.shared.exported import exported_model, make_exported_judge

        if asked.given("compute.runtime") == "torch":
            raise UsageError(f"{prompts} is run by onnxruntime, not by torch.", remedy="exported-runtime")
        detector = open_exported(prompts, opening)
        config = asked.config({"model": exported_model(detector.metadata).model_dump()})
        judge = make_exported_judge(detector, config, score=score_name, threshold=threshold)
        talk.say(f"Model: {detector.metadata.model} in {prompts}, run by onnxruntime in {judge.threads} threads")
        for decision in judge.decisions:
            talk.decide(decision)
        return config, judge
    from negprompt_cli.data.sets.class_list import novel_names, read_class_list
    from negprompt_cli.steps.shared.scorer import ArtifactJudge, make_scorer, named_prompts, open_prompts
    from negprompt_cli.steps.shared.workbench import Workbench

    names = novel_names(read_class_list(classes)) if classes else None
    artifact = common.artifact(asked, prompts, NEGATIVE)
    config = asked.config() if names else artifact.configure(asked, "model")
    start_processes(config)
    bench = Workbench(config, talk)
    found = named_prompts(bench, names) if names else open_prompts(bench, artifact)
    return config, ArtifactJudge(bench, make_scorer(bench, found, score=score_name, threshold=threshold))


def _tell_unjudged(talk: Talk, summary: "ScoreSummary", unreadable: int) -> None:
    """Print how many images have no verdict, and which."""
    count = summary.broken + unreadable
    if not count:
        return
    named = some_of(summary.unreadable, 3)
    said = f"{count} images could not be judged" + (f": {named}. Their rows have the reasons." if named else ".")
    if unreadable:
        said += f" {unreadable} of them are in formats that cannot be read here, and have no rows."
    facts = {"images": count, "broken": summary.broken, "unreadable_kinds": unreadable, "first": summary.unreadable}
    talk.decide(Decision("images-not-judged", said, facts, warning=True))


def _check(
    common: Common,
    prompts: Path | None,
    classes: Path | None,
    out: Path | None,
    report: Path | None,
    *,
    append: bool,
    copy: bool,
    sort_into: Path | None,
) -> None:
    """Refuse options that exclude each other.

    Raises:
        UsageError: two options exclude each other, or one needs another.
    """
    if prompts and classes:
        raise UsageError("Pass --prompts or --classes, not both: an artifact has its own class names.")
    if out is None and (append or common.json or (common.overwrite and report is None)):
        flag = "--append" if append else "--json" if common.json else "--overwrite"
        raise UsageError(f"{flag} needs --out FILE, because the rows go to standard output (--format jsonl for JSON).")
    if append and common.overwrite:
        raise UsageError("Pass --append or --overwrite, not both.")
    if copy and sort_into is None:
        raise UsageError("--copy needs --sort-into DIR.")


def _check_rates(
    fdr: float | None, level: float | None, *, append: bool, threshold: float | None, tested: bool
) -> None:
    """Refuse rates that are none, or that would not be used.

    Raises:
        UsageError: says which.
    """
    for name, rate in (("--fdr", fdr), ("--level", level)):
        if rate is not None and not 0 < rate < 1:
            raise UsageError(f"{name} {rate:g} is not between 0 and 1. Give for example {name} 0.05.")
    if fdr is not None and append:
        raise UsageError("--fdr judges all images together, so it cannot be used with --append. Remove one of them.")
    if fdr is not None and threshold is not None:
        raise UsageError("--fdr chooses the OOD images without a threshold, so remove it or --threshold.")
    if level is not None and not tested:
        raise UsageError(
            "--level is the rate of a test that was not asked for: pass --batch-verdict or --fail-on-shift."
        )


def _summarise(talk: Talk, verdicts: "Verdicts", summary: "ScoreSummary", seconds: float, *, fdr: float | None) -> None:
    """Print a summary on stderr."""
    readable = summary.images - summary.broken
    rate = summary.images / max(1e-9, seconds)
    talk.say(
        f"{summary.images} images in {seconds:.1f} s ({rate:.3g}/s)"
        + (f", {summary.broken} of them broken" if summary.broken else "")
        + (f"; {summary.known} others already had rows" if summary.known else "")
        + "."
    )
    if not readable:
        return
    if fdr is not None:
        talk.say(
            f"{summary.ood} of {readable} images are OOD. At most {100 * fdr:g} % of those are expected to be ID. Images "
            "with the lowest scores:"
        )
    elif verdicts.threshold is None:
        said = (
            f"There is no threshold for {verdicts.score}, so no image is called OOD. Choose one with `negprompt calibrate`, "
            "or pass --threshold."
        )
        talk.decide(Decision("threshold", said, {"threshold": None, "score": verdicts.score}))
        talk.say("Images with the lowest scores:")
    else:
        talk.say(
            f"{summary.ood} are OOD, {readable - summary.ood} are ID ({verdicts.score} at least {verdicts.threshold:.6g}). "
            "Images with the lowest scores:"
        )
    for value, path in summary.lowest:
        talk.say(f"  {value:.6g}  {path}")
    if summary.delivery:
        talk.say(summary.delivery.sentence())


def _document(
    verdicts: "Verdicts", summary: "ScoreSummary", out: Path, *, limited: bool, fdr: float | None
) -> dict[str, Any]:
    from negprompt_cli.data.results.provenance import versions

    return {
        "schema": schemas.SCORE,
        "path": str(out),
        "limited": limited,
        "prompts_sha256": verdicts.prompts_sha256 or None,
        "weights_sha256": verdicts.weights_sha256,
        "versions": versions(exported=verdicts.exported),
        "score": verdicts.score,
        "threshold": verdicts.threshold,
        "images": summary.images,
        "broken": summary.broken,
        "ood": None if verdicts.threshold is None else summary.ood,
        "known": summary.known,
        "fdr": fdr,
        "delivery": asdict(summary.delivery) if summary.delivery else None,
        "classes": summary.by_class,
    }
