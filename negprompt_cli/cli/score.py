"""`negprompt score`: the class of each image, and whether it is OOD."""

import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from contextlib import AbstractContextManager

    from negprompt_cli.config import Asked, Config
    from negprompt_cli.data.results.rowfile import RowFile
    from negprompt_cli.data.sets.filekinds import LeftOut
    from negprompt_cli.steps.score import ScoreSummary
    from negprompt_cli.steps.shared.artifact_file import ArtifactFile
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


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `score`."""

    prompts: Path | None = option("Prompt artifact (default <run>/negative.safetensors) or an exported .onnx file.")
    classes: Path | None = option("Class names to use without an artifact: text, CSV, JSON or YAML.")
    score: str | None = SCORE
    threshold: float | None = THRESHOLD
    form: Literal["csv", "jsonl", "parquet"] | None = option(
        "Format of the rows (default: by the suffix of --out, else csv).", name="--format"
    )
    out: Path | None = option("File to write the rows to instead of stdout.")
    report: Path | None = option("Also write an HTML page with the images.", metavar="PAGE.html")
    append: bool = flag("Add rows to --out for images that have no row yet.")
    sort_into: Path | None = option("Link images into DIR/id/<class> and DIR/ood.", metavar="DIR")
    copy: bool = flag("Copy images instead of linking them.")
    fail_on_ood: bool = flag("Exit with 3 if an image is OOD, else with 4 if one could not be judged.")
    fdr: float | None = option(
        "Choose the OOD images without a threshold: at most this share of them is expected to be ID.", metavar="SHARE"
    )
    batch_verdict: bool = flag("Test whether all images together differ from ID images.")
    level: float | None = option("False alarm rate of --batch-verdict (default 0.05).", metavar="RATE")
    fail_on_shift: bool = flag("Run the same test, and exit with 5 if it finds a difference.")

    @property
    def shift_level(self) -> float | None:
        """The false alarm rate of the test for a shift; None for no test."""
        return (self.level or SHIFT_LEVEL) if self.batch_verdict or self.fail_on_shift else None

    def check(self, common: Common) -> None:
        """Refuse rates that are not between 0 and 1, and options that exclude each other or need another.

        Raises:
            UsageError: says which.
        """
        for name, rate in (("--fdr", self.fdr), ("--level", self.level)):
            if rate is not None and not 0 < rate < 1:
                raise UsageError(f"{name} {rate:g} is not between 0 and 1. Give for example {name} 0.05.")
        overwritten = common.overwrite and self.report is None
        for_out = {"--append": self.append, "--json": common.json, "--overwrite": overwritten}
        needs_out = [name for name, given in for_out.items() if given and self.out is None]
        by_rate, tested = self.fdr is not None, self.shift_level is not None
        faults = {
            "Pass --prompts or --classes, not both: an artifact has its own class names.": self.prompts
            and self.classes,
            f"{''.join(needs_out[:1])} needs --out FILE, because the rows go to standard output (--format jsonl for "
            "JSON).": needs_out,
            "Pass --append or --overwrite, not both.": self.append and common.overwrite,
            "--copy needs --sort-into DIR.": self.copy and not self.sort_into,
            "--fdr judges all images together, so it cannot be used with --append. Remove one of them.": by_rate
            and self.append,
            "--fdr chooses the OOD images without a threshold, so remove it or --threshold.": by_rate
            and self.threshold is not None,
            "--level is the rate of a test that was not asked for: pass --batch-verdict or --fail-on-shift.": not tested
            and self.level is not None,
        }
        for message, given in faults.items():
            if given:
                raise UsageError(message)


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
    options: ScoreOptions,
    paths: list[str] = argument(
        "PATHS", "Images, folders, lists, tar or Parquet files, hf:NAME, globs, or - for a list on stdin."
    ),
) -> None:
    """Predict each image's class and decide whether it is OOD.

    Pass learned prompts with --prompts or --run, or class names with --classes. Each image becomes a row, in the order of
    the images; the row of a broken image has its error. An interrupted run leaves its rows in FILE.part, and --append adds
    the missing ones.
    """
    talk, out, sort_into = common.talk(), options.out, options.sort_into
    options.check(common)
    opening = None
    if options.prompts and options.prompts.suffix.lower() == ".onnx":
        from negprompt_cli.data.files.onnx_session import begin_opening

        # It takes about as long as importing what follows, and both can be done at once.
        opening = begin_opening(options.prompts)
    from negprompt_cli.data.results.rowfile import row_form
    from negprompt_cli.data.sets.filekinds import LeftOut
    from negprompt_cli.data.sets.pathlist import check_paths, list_paths, stdin_names
    from negprompt_cli.steps.score import Sorting, check_same_run, check_same_sorting, run_score

    form = row_form(out, options.form)
    _check_outputs(options, common, form, paths)
    asked = common.asked()
    artifact = common.artifact(asked, None if opening else options.prompts, NEGATIVE)
    if not opening and not options.classes:
        artifact.require(asked.spec)
    for decision in check_paths(paths):
        talk.decide(decision)
    config, judge = _detector(options, asked, talk, opening, artifact)
    verdicts = judge.verdicts
    _require(options, verdicts)
    sorting = None
    if sort_into:
        file = None if options.classes else options.prompts or artifact.path
        detector = (file, verdicts.prompts_sha256) if file else None
        threshold = verdicts.threshold if options.fdr is None else None
        sorting = Sorting(sort_into, options.copy, detector, threshold)
        check_same_sorting(sorting)
    left_out = LeftOut()
    started = time.monotonic()
    with _open_rows(options, form) as rows:
        if out and rows.before.images:
            check_same_run(rows.before, verdicts, out)
        if rows.cut:
            message = f"The last row of {out} was incomplete and was removed."
            talk.decide(Decision("files-left-out", message, {"file": str(out), "rows": 1}))
        page = None
        if options.report:
            from negprompt_cli.steps.shared.score_page import PageRows

            page = PageRows(rows.sink)
        summary = run_score(
            judge,
            list_paths(paths, stdin_names(sys.stdin.buffer), left_out),
            page or rows.sink,
            limit=config.data.limit,
            known=rows.known,
            sorting=sorting,
            # By default a broken image gets a row with its error.
            stop_on_error=asked.given("data.on_error") == "stop",
            fdr=options.fdr,
            shift_level=options.shift_level,
            task=_Counter(talk),
        )
    _print_summary(talk, options, verdicts, summary, left_out, time.monotonic() - started)
    before, unreadable = rows.before, left_out.unreadable
    total: dict[str, Any] = {
        "images": summary.images + before.images,
        "broken": summary.broken + before.broken,
        "ood": None if verdicts.threshold is None and options.fdr is None else summary.ood + before.ood,
    }
    if before.images:
        found = "" if total["ood"] is None else f", {total['ood']} of them OOD"
        talk.say(f"{out} now has rows of {total['images']} images{found}, {total['broken']} of them broken.")
    if sort_into:
        talk.say(f"{'Copied' if options.copy else 'Linked'} the images into {sort_into}/id/<class> and {sort_into}/ood")
    if options.report and page:
        _write_page(options, page, verdicts, summary, config, paths, add=out if before.images else None)
        talk.say(f"Wrote a page with the images, where you can try other thresholds, to {options.report}")
    if out:
        document = _document(options, verdicts, summary, limited=config.data.limit is not None)
        talk.result(out, {**document, "not_judged": total["broken"] + unreadable, "total": total})
    shifted = summary.delivery is not None and summary.delivery.shifted
    if code := _exit_code(options, total["ood"] or 0, summary.broken + before.broken + unreadable, shifted=shifted):
        raise typer.Exit(code)


def _check_outputs(options: ScoreOptions, common: Common, form: str, paths: list[str]) -> None:
    """Check, before any work, that the rows, the page and the sorted images can be written.

    Raises:
        UsageError: something exists and may not be replaced, or cannot be written.
    """
    if options.out:
        from negprompt_cli.data.results.rowfile import check_row_file

        check_row_file(options.out, form, append=options.append, overwrite=common.overwrite)
    if options.report:
        from negprompt_cli.report.page import check_page

        check_page(options.report, overwrite=common.overwrite or options.append)
    if options.sort_into:
        from negprompt_cli.steps.score import check_sorting

        check_sorting(options.sort_into, paths, append=options.append)


def _open_rows(options: ScoreOptions, form: str) -> "AbstractContextManager[RowFile]":
    """The file of rows, or standard output."""
    from negprompt_cli.data.results.rowfile import KnownPaths, RowFile, TextSink, Totals, row_file

    if options.out:
        return row_file(options.out, form, append=options.append)
    return nullcontext(RowFile(TextSink(sys.stdout.buffer, form), KnownPaths(), Totals()))


def _exit_code(options: ScoreOptions, ood: int, not_judged: int, *, shifted: bool) -> int:
    if options.fail_on_ood and (ood or not_judged):
        return OOD_FOUND if ood else NOT_JUDGED
    return SHIFTED if options.fail_on_shift and shifted else 0


def _detector(
    options: ScoreOptions,
    asked: "Asked",
    talk: Talk,
    opening: "Future[Any] | None",
    artifact: "ArtifactFile",
) -> "tuple[Config, Judge]":
    """The configuration, and the detector: an exported file that is being opened, an artifact, or class names alone.

    Raises:
        UsageError: the detector is invalid, or does not support an option.
    """
    if options.prompts and opening:
        from negprompt_cli.data.results.exported import open_exported
        from negprompt_cli.steps.shared.exported import exported_model, make_exported_judge

        if asked.given("compute.runtime") == "torch":
            raise UsageError(f"{options.prompts} is run by onnxruntime, not by torch.", remedy="exported-runtime")
        detector = open_exported(options.prompts, opening)
        config = asked.config({"model": exported_model(detector.metadata).model_dump()})
        exported = make_exported_judge(detector, config, score=options.score, threshold=options.threshold)
        talk.say(
            f"Model: {detector.metadata.model} in {options.prompts}, run by onnxruntime in {exported.threads} threads"
        )
        for decision in exported.decisions:
            talk.decide(decision)
        return config, exported
    from negprompt_cli.data.sets.class_list import novel_names, read_class_list

    names = novel_names(read_class_list(options.classes)) if options.classes else None
    config = asked.config() if names else artifact.configure(asked, "model")
    start_processes(config)
    from negprompt_cli.steps.shared.scorer import ArtifactJudge, make_scorer, named_prompts, open_prompts
    from negprompt_cli.steps.shared.workbench import Workbench

    bench = Workbench(config, talk)
    found = named_prompts(bench, names) if names else open_prompts(bench, artifact)
    scorer = make_scorer(bench, found, score=options.score, threshold=options.threshold)
    return config, ArtifactJudge(bench, scorer)


def _require(options: ScoreOptions, verdicts: "Verdicts") -> None:
    """Check that the detector has the threshold or the calibration images that the options need.

    Raises:
        UsageError: it does not; the message says how to get them.
    """
    from negprompt_cli.steps.score import require_calibration, require_threshold

    if options.fail_on_ood and options.fdr is None:
        require_threshold(verdicts, "--fail-on-ood")
    if options.fdr is not None:
        require_calibration(verdicts, "a selection with a false discovery rate")
    if options.shift_level is not None:
        require_calibration(verdicts, "a verdict on all images together")


def _print_summary(
    talk: Talk,
    options: ScoreOptions,
    verdicts: "Verdicts",
    summary: "ScoreSummary",
    left_out: "LeftOut",
    seconds: float,
) -> None:
    """Print how many images were judged, how many were not and why, how many are OOD, and those with the lowest scores."""
    if text := left_out.text():
        talk.decide(Decision("files-left-out", f"Left out: {text}", {"reasons": left_out.by_reason()}))
    if not summary.images + summary.known:
        talk.decide(Decision("other", "There are no images, so nothing was judged.", {"images": 0}, warning=True))
    unreadable = left_out.unreadable
    if count := summary.broken + unreadable:
        named = some_of(summary.unreadable, 3)
        message = f"Images that could not be judged: {count}" + (
            f" ({named}). The rows have the reasons." if named else "."
        )
        if unreadable:
            message += f" {unreadable} of them are in formats that cannot be read here, and have no rows."
        facts = {"images": count, "broken": summary.broken, "unreadable_kinds": unreadable, "first": summary.unreadable}
        talk.decide(Decision("images-not-judged", message, facts, warning=True))
    parts = [f"{summary.images} images in {seconds:.1f} s ({summary.images / max(1e-9, seconds):.3g}/s)"]
    parts += [f", {summary.broken} of them broken"] * bool(summary.broken)
    parts += [f"; {summary.known} others already had rows"] * bool(summary.known)
    talk.say(f"{''.join(parts)}.")
    readable = summary.images - summary.broken
    if not readable:
        return
    if options.fdr is not None:
        talk.say(
            f"{summary.ood} of {readable} images are OOD. At most {100 * options.fdr:g} % of those are expected to be ID. "
            "Images with the lowest scores:"
        )
    elif verdicts.threshold is None:
        message = (
            f"There is no threshold for {verdicts.score}, so is_ood is empty. Choose one with `negprompt calibrate`, "
            "or pass --threshold."
        )
        talk.decide(Decision("threshold", message, {"threshold": None, "score": verdicts.score}))
        talk.say("Images with the lowest scores:")
    else:
        talk.say(
            f"{summary.ood} images are OOD, {readable - summary.ood} are ID ({verdicts.score} at least "
            f"{verdicts.threshold:.6g}). "
            "Images with the lowest scores:"
        )
    for value, path in summary.lowest:
        talk.say(f"  {value:.6g}  {path}")
    if summary.delivery:
        talk.say(summary.delivery.sentence())


def _write_page(
    options: ScoreOptions,
    rows: "PageRows",
    verdicts: "Verdicts",
    summary: "ScoreSummary",
    config: "Config",
    paths: list[str],
    *,
    add: Path | None,
) -> None:
    """Write the page of the rows, or of all rows in the file `add`, which also has those of earlier runs."""
    from negprompt_cli.data.results.rowfile import read_rows
    from negprompt_cli.steps.shared.score_page import PageRows, judged_by, write_score_page

    assert options.report is not None
    if add:
        rows = PageRows()
        rows.write(read_rows(add))
    judged = judged_by(verdicts, fdr=options.fdr, delivery=summary.delivery, limited=config.data.limit is not None)
    title = f"Scored images: {some_of(['a list' if name == '-' else name for name in paths], 3)}"
    write_score_page(options.report, rows, judged, title=title, rules=config.model.pixels)


def _document(options: ScoreOptions, verdicts: "Verdicts", summary: "ScoreSummary", *, limited: bool) -> dict[str, Any]:
    from negprompt_cli.data.results.provenance import versions

    return {
        "schema": schemas.SCORE,
        "path": str(options.out),
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
        "fdr": options.fdr,
        "delivery": asdict(summary.delivery) if summary.delivery else None,
        "classes": summary.by_class,
        "report": str(options.report) if options.report else None,
    }
