"""A report of evaluated runs or of files of scores: one HTML page that needs no network, and its pictures as files.

An evaluation keeps figures but no images, so the scores of a run are computed again from its configuration and artifact,
whose digest must be the recorded one. A file of scores that `evaluate` saved gives all parts except those that need features
(similarities, map, what the negatives catch). A file of rows that `score` wrote gives the page of `score`.

The page begins with the answer: verdict, three numbers with intervals, scores, the images with the worst errors, confusions
and classes. Then it has all scores, ROC curves, similarities to prompts (the paper's Figure 3), a map of images and prompts
(its Figure 4) and what each negative prompt catches. The configuration and the digests are at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negprompt_cli.choices import MapKind
from negprompt_cli.config import Config, PixelsConfig, load_config
from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.results.evaluations import EvaluationDocument, below_chance, evaluation_path, load_evaluation
from negprompt_cli.data.results.rowfile import read_rows
from negprompt_cli.engine.metrics.detection import area_under_roc
from negprompt_cli.engine.scores import find_score
from negprompt_cli.errors import UsageError, did_you_mean
from negprompt_cli.report.page import Section, Table, render_page
from negprompt_cli.steps.compare import compare_runs, run_facts, run_labels
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.caught import caught_gallery
from negprompt_cli.steps.shared.class_tables import confusions
from negprompt_cli.steps.shared.comparison import caption, figures_table, remarks, streams_table
from negprompt_cli.steps.shared.measure import measure
from negprompt_cli.steps.shared.outputs import refuse_existing
from negprompt_cli.steps.shared.report_parts import (
    FPR95_NOTE,
    INTERVALS_NOTE,
    Lines,
    answer,
    galleries,
    id_class_table,
    measured_numbers,
    ood_class_tables,
    recorded_numbers,
    scores_table,
)
from negprompt_cli.steps.shared.report_pictures import (
    Drawer,
    map_pictures,
    nearest_lines,
    roc_pictures,
    score_pictures,
    similarity_pictures,
)
from negprompt_cli.steps.shared.score_page import Judged, PageRows, write_score_page
from negprompt_cli.steps.shared.scored_sets import ScoredSets, is_score_file, is_table, of_measured, read_score_file
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import Cell, percent

FORMATS = ("png", "svg", "pdf")
PAGE = "index.html"
SAME_AUROC = 0.002
"""Largest difference between a recorded AUROC and one computed again, perhaps on another device."""
STREAMS_TITLE = "Test-time scores: these scores see the test stream"


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report.

    `score`: the main score, for class tables and thumbnails; None for negprompt, or for the first if negprompt was not
    evaluated. `scores`: the scores in pictures; None for all. `formats`: those of the picture files.
    """

    score: str | None = None
    scores: tuple[str, ...] | None = None
    formats: tuple[str, ...] = FORMATS
    map_kind: MapKind = "tsne"
    device: str | None = None
    data_root: str | None = None


@dataclass(frozen=True)
class _Run:
    """An evaluated run: its document, and the configuration and artifact to compute its scores from again."""

    label: str
    document: EvaluationDocument
    config: Config
    artifact: ArtifactFile


def run_report(
    bench: Workbench, sources: Sequence[Path], out: Path, options: ReportOptions, *, overwrite: bool
) -> Path:
    """Write a report into the folder `out`: index.html, and figures/ with every picture.

    Args:
        bench: its model serves the runs that were made with the same one.
        sources: run folders, evaluation documents, files of scores of an evaluation, or one file of rows of `score`.
        out: the folder to write.
        overwrite: whether an existing report may be replaced.

    Returns:
        The path of the page.

    Raises:
        UsageError: a run is not evaluated, its artifact or scores have changed, data are missing, a file has no scores, or
            an option is wrong.
    """
    for form in options.formats:
        if form not in FORMATS:
            raise UsageError(f"Unknown picture format {form!r}.{did_you_mean(form, FORMATS)}")
    page = out / PAGE
    refuse_existing(page, overwrite=overwrite)
    tables = [path for path in sources if is_table(path)]
    if rows := [path for path in tables if not is_score_file(path)]:
        return _rows_page(rows, sources, page)
    paths = [path if path in tables else evaluation_path(path) for path in sources]
    labels = dict(zip(paths, run_labels(paths), strict=True))
    runs = {path: _find(path, labels[path], options) for path in paths if path not in tables}
    sections = []
    for number, path in enumerate(paths, start=1):
        bench.progress.say(f"Report of {labels[path]}")
        key = f"run{number}"
        drawer = Drawer(out / "figures", options.formats, "" if number == 1 else f"{key}-")
        if path in runs:
            bench = bench.with_config(runs[path].config)
            sections.append(_run_section(runs[path], key, bench, options, drawer))
        else:
            sections.append(_table_section(path, labels[path], key, options, drawer))
    atomic_write_text(page, render_page(_joint(list(runs)), sections))
    return page


def _rows_page(rows: Sequence[Path], sources: Sequence[Path], page: Path) -> Path:
    """The page of the rows that `score` wrote to a file."""
    if len(sources) > 1:
        raise UsageError(f"{rows[0]} has rows that `score` wrote, which get their own page. Report it alone.")
    collected = PageRows()
    collected.write(read_rows(rows[0]))
    write_score_page(page, collected, Judged(), title=f"Scored images: {rows[0].name}", rules=PixelsConfig())
    return page


def _find(path: Path, label: str, options: ReportOptions) -> _Run:
    """A run's document, configuration and artifact; those of the first seed if there are several."""
    document = load_evaluation(path)
    file = path.with_name(f"{path.stem}.config.yaml")
    if not file.is_file():
        raise UsageError(
            f"There is no {file.name} next to {path}, and a report needs it to compute the scores. Evaluate again."
        )
    flags: dict[str, Any] = {}
    if options.device:
        flags["compute.device"] = options.device
    if options.data_root:
        flags["data.root"] = options.data_root
    recorded = document.seeds[0] if document.seeds else document.prompts
    recorded_path = Path(recorded.path)
    # A run folder that was moved still has its artifact, and another file may now be at the recorded path.
    beside = (path.parent / f"seed-{recorded.seed}" if document.seeds else path.parent) / recorded_path.name
    found = [file for file in (recorded_path, beside) if file.is_file()] or [beside]
    artifact = next((a for a in map(ArtifactFile, found) if a.prompts.sha256 == recorded.sha256), None)
    if artifact is None:
        raise UsageError(f"{found[0]} has changed since {path} was written. Evaluate it again, then report.")
    scores = document.scores
    for name in (*(options.scores or ()), *([options.score] if options.score else ())):
        if name not in scores:
            raise UsageError(f"{path} was not evaluated with score {name!r}.{did_you_mean(name, scores)}")
    main = options.score or ("negprompt" if "negprompt" in scores else scores[0])
    # The main score comes first in every picture.
    flags["evaluate.scores"] = [main, *(n for n in options.scores or scores if n != main)]
    # Their figures are in the document.
    flags |= {"evaluate.ci": False, "evaluate.templates": None, "evaluate.test_time": []}
    return _Run(label, document, load_config(str(file), flags=flags), artifact)


def _joint(runs: Sequence[Path]) -> list[Table]:
    """The tables of all runs, or a table with only the reason why there are none."""
    if len(runs) < 2:
        return []
    try:
        comparison = compare_runs(runs)
    except UsageError as error:
        return [Table("All runs", [], [], note=f"No joint table: {error}")]
    header, rows, _ = figures_table(comparison)
    message = " ".join([caption(comparison), *remarks(comparison)])
    return [
        Table("All runs", header, rows, note=message, words=(0, 1)),
        *_streams(streams_table(comparison), words=(0, 1)),
    ]


def _streams(found: tuple[str, list[str], list[list[Cell]]] | None, *, words: tuple[int, ...] = (0,)) -> list[Table]:
    """The table of test-time scores, where there are any, marked as what it is."""
    if found is None:
        return []
    note, header, rows = found
    return [Table(STREAMS_TITLE, header, rows, note=f"{note}.", words=words)]


def _run_section(run: _Run, key: str, bench: Workbench, options: ReportOptions, drawer: Drawer) -> Section:
    """The section of one run; writes its pictures."""
    measured = measure(bench, run.artifact)
    document, sets, rules = run.document, of_measured(measured), measured.prompts.config.model.pixels
    _check_recorded(run, sets)
    facts = [
        ("ID images", f"{document.id.name}: {document.id.images} images of {document.id.classes} classes"),
        ("ID accuracy", f"{percent(document.id.accuracy)} %"),
        *((name, value) for name, value in run_facts(document).items() if value != "-"),
        ("artifact", f"{run.artifact.path} (sha256 {measured.prompts.sha256})"),
        ("weights", f"sha256 {document.model.weights_sha256}"),
        *((f"score {s.name}", f"{s.title}: {s.formula}. {s.paper}.") for s in map(find_score, measured.scores)),
        ("evaluated with", ", ".join(f"{name} {version}" for name, version in document.versions.items()) or "-"),
    ]
    if document.seeds:
        facts.append(("shown", f"pictures, classes and images are those of seed {document.seeds[0].seed}"))
    header, rows = document.table()
    results = Table(
        f"All scores: AUROC / FPR95{document.spread}",
        header,
        rows,
        note=str(below_chance(document.rows) or FPR95_NOTE),
    )
    more = [
        similarity_pictures(measured, sets, drawer),
        map_pictures(measured, sets, options.map_kind, bench.config.seed, drawer),
    ]
    return _section(
        sets,
        key,
        drawer,
        rules=rules,
        lines=nearest_lines(measured, sets),
        title=f"{run.label} on {document.id.name}",
        limited=document.limited,
        numbers=recorded_numbers(document, sets.scores[0])
        if document.seeds
        else measured_numbers(sets, bench.config.seed),
        numbers_note="" if document.seeds else INTERVALS_NOTE,
        results=results,
        streams=next(iter(_streams(document.test_time_table())), None),
        more=more,
        caught=caught_gallery(measured, sets, rules),
        facts=facts,
    )


def _check_recorded(run: _Run, sets: ScoredSets) -> None:
    """Check that scores computed again are the recorded ones; with several seeds only their means are recorded.

    Raises:
        UsageError: an AUROC differs, so the page would contradict itself.
    """
    for score in () if run.document.seeds else sets.scores:
        for ood in sets.ood_sets:
            recorded, again = run.document.row(score, ood.name), area_under_roc(sets.curve(score, ood))
            if recorded is not None and abs(recorded.auroc - again) > SAME_AUROC:
                raise UsageError(
                    f"{run.label} has an AUROC of {percent(recorded.auroc)} % for {score} on {ood.name}, but it is "
                    f"{percent(again)} % now, because the images or this version's score differ. Evaluate it again, then "
                    "report."
                )


def _table_section(path: Path, label: str, key: str, options: ReportOptions, drawer: Drawer) -> Section:
    """The section of a file of scores; writes its pictures."""
    sets, seed = read_score_file(path, options.score)
    facts = [
        ("file", str(path)),
        ("seed", str(seed)),
        ("ID images", f"{sets.id_set.name}: {len(sets.id_set)}"),
        *((f"OOD images of {ood.name}", str(len(ood))) for ood in sets.ood_sets),
    ]
    return _section(
        sets,
        key,
        drawer,
        rules=PixelsConfig(),
        lines=lambda scored, image: [f"predicted {sets.names[int(scored.predictions[image])]}"],
        title=f"{label} on {sets.id_set.name}",
        limited=False,
        numbers=measured_numbers(sets, seed),
        numbers_note=INTERVALS_NOTE,
        results=scores_table(sets),
        streams=None,
        more=[],
        caught=None,
        facts=facts,
    )


def _section(
    sets: ScoredSets, key: str, drawer: Drawer, *, rules: PixelsConfig, lines: Lines, more: Any, **values: Any
) -> Section:
    """A section from labels, predictions and scores, with more facts of the caller."""
    known = sets.id_set.labels >= 0
    first, folded = score_pictures(sets, drawer)
    return Section(
        key=key,
        answer=answer(sets),
        scores=first,
        folded=folded,
        galleries=galleries(sets, rules, lines),
        confusions=confusions(sets.id_set.labels[known], sets.id_set.predictions[known], sets.names),
        tables=[id_class_table(sets), *ood_class_tables(sets)],
        more=[roc_pictures(sets, drawer), *more],
        **values,
    )
