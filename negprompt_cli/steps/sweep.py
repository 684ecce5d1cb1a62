"""A study: settings x ID problems x seeds. Each cell is an ordinary run, and finished cells are skipped.

    <run>/<problem>/<variant>/seed-N/negative.safetensors, evaluation.json    one cell
    <run>/<problem>/<variant>/evaluation.json                                 means over the seeds, as evaluate --seeds
    <run>/<problem>/positive/<digest>/seed-N/positive.safetensors             stage 1, once for all cells that share it
    <run>/sweep.json                                                          the figures of all cells, and overall

The result has the figures on OOD sets, and those of the criterion that uses ID data alone (`engine.criterion`). Every
training of negatives records the latter; some ID classes and images are used as OOD for it, so settings may be chosen by it.

With `data.train_classes` the prompts are transferred to all classes of the problem before they are evaluated. All cells
share one model and the features of each image set. No winner is chosen. Settings may also be chosen by the overall figures
of problems that are made of ID images alone (`data.leave_out`); figures of other OOD sets are only for reporting.
"""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from negprompt_cli import schemas
from negprompt_cli.config import Config
from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.results.evaluation_means import average_over_seeds
from negprompt_cli.data.results.evaluations import AVERAGE, Row, below_chance, load_evaluation, save_evaluation
from negprompt_cli.data.results.provenance import versions
from negprompt_cli.data.results.runs import EVALUATION, NEGATIVE, POSITIVE, seed_folder
from negprompt_cli.data.studies.experiments import ExperimentTask
from negprompt_cli.data.studies.grids import Grid
from negprompt_cli.decisions import documents as records
from negprompt_cli.engine.criterion import Figures, mean_of
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.reproduce import Job, finished, run_job, task_data
from negprompt_cli.steps.shared.outputs import write_config
from negprompt_cli.steps.shared.preflight import together
from negprompt_cli.steps.shared.workbench import Workbench

SUMMARY = "sweep.json"
TRANSFERRED = "transferred.safetensors"
POSITIVES = "positive"

Configure = Callable[[Mapping[str, Any]], Config]
"""Resolves a configuration with dotted keys set."""


@dataclass(frozen=True)
class Cell:
    """One run: its jobs in order. The last one is the evaluation."""

    problem: str
    variant: str
    seed: int
    jobs: tuple[Job, ...]

    @property
    def evaluation(self) -> Path:
        """The file of its evaluation."""
        return self.jobs[-1].out


@dataclass(frozen=True)
class SweepRow:
    """One score on one OOD set in one cell of the study: means over seeds, with standard deviations."""

    problem: str
    variant: str
    row: Row


@dataclass(frozen=True)
class Overall:
    """The figures of a variant and score over all pairs of problem and OOD set, with equal weights; fractions.

    `cells`: number of pairs. `lowest`: the first pair with the lowest AUROC.
    """

    variant: str
    score: str
    cells: int
    auroc: float
    fpr95_id_positive: float
    lowest: SweepRow

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        low = self.lowest
        lowest = {"problem": low.problem, "ood": low.row.ood, "auroc": low.row.auroc}
        return {**vars(self), "lowest": lowest}


@dataclass(frozen=True)
class CriterionRow:
    """The criterion of ID data alone for a problem, variant and score: means over seeds, for each side."""

    problem: str
    variant: str
    score: str
    sides: Mapping[str, Figures]

    @property
    def overall(self) -> Figures:
        """The mean over the sides."""
        return mean_of(self.sides.values())

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"overall": asdict(self.overall)}


@dataclass(frozen=True)
class Sweep:
    """The result of a sweep: its document, and what it contains."""

    path: Path
    document: dict[str, Any]
    limited: bool
    rows: tuple[SweepRow, ...]
    criterion: tuple[CriterionRow, ...]
    overall: tuple[Overall, ...]


def plan_sweep(grid: Grid, run: Path, configure: Configure) -> list[Cell]:
    """The cells of a sweep, by problem, then by variant; no file is opened.

    Raises:
        UsageError: a key or value is not allowed, or two cells have the same name.
    """
    variants = grid.settings_by_variant()
    cells = []
    for problem, task in grid.problems.items():
        for variant, keys in variants.items():
            for seed in grid.seeds:
                jobs = _cell_jobs(grid, task, run / problem, variant, keys, seed, configure)
                cells.append(Cell(problem, variant, seed, tuple(jobs)))
    return cells


def run_sweep(bench: Workbench, grid: Grid, run: Path, *, configure: Configure, overwrite: bool) -> Sweep:
    """Run the unfinished cells, and collect the figures of all.

    Args:
        bench: cells that need the same model use its model.
        grid: the problems, seeds and settings.
        run: the folder for all files.
        configure: resolves a configuration with dotted keys set.
        overwrite: run all cells again; otherwise finished cells are skipped.

    Raises:
        UsageError: settings are wrong, data are missing (the message names all of them), or a cell was made with other
            settings.
        NegPromptError: a job failed.
    """
    cells = plan_sweep(grid, run, configure)
    bench = bench.with_config(cells[0].jobs[0].config)
    progress = bench.progress
    together(
        *(
            partial(bench.with_config(cell.jobs[0].config).image_set, spec, role)
            for cell in cells
            if (cell.variant, cell.seed) == (cells[0].variant, cells[0].seed)
            for spec, role in task_data(grid.problems[cell.problem])
        )
    )
    done: set[Path] = set()
    for number, cell in enumerate(cells, start=1):
        progress.say(f"Cell {number} of {len(cells)}: {cell.problem}, {cell.variant}, seed {cell.seed}")
        for job in cell.jobs:
            if job.out in done or (not overwrite and _finished(job, bench)):
                continue
            run_job(job, bench, overwrite=overwrite)
            done.add(job.out)
    rows: list[SweepRow] = []
    criterion: list[CriterionRow] = []
    documents: list[dict[str, Any]] = []
    limited = False
    for problem in grid.problems:
        for variant in grid.settings_by_variant():
            mine = [c for c in cells if (c.problem, c.variant) == (problem, variant)]
            folder = run / problem / variant
            means = average_over_seeds([load_evaluation(c.evaluation) for c in mine])
            save_evaluation(folder / EVALUATION, means)
            write_config(mine[0].jobs[-1].config, folder / EVALUATION)
            limited = limited or means.limited
            rows += [SweepRow(problem, variant, row) for row in means.rows]
            criterion += _criterion(problem, variant, mine)
            place = {"problem": problem, "variant": variant, "prompts_sha256": means.artifacts}
            documents += [{**place, **row.document()} for row in means.rows]
    totals = overall(rows)
    warnings = [] if (found := below_chance(row.row for row in rows)) is None else [found]
    for decision in warnings:
        progress.decide(decision)
    document = {
        "schema": schemas.SWEEP,
        "limited": limited,
        "model": means.model.document(),
        "versions": versions(),
        "grid": grid.model_dump(mode="json"),
        "evaluations": [str(c.evaluation) for c in cells],
        "decisions": records(warnings),
        "rows": documents,
        "criterion": [row.document() for row in criterion],
        "overall": [total.document() for total in totals],
    }
    atomic_write_text(run / SUMMARY, json.dumps(document, indent=1) + "\n")
    return Sweep(run / SUMMARY, document, limited, tuple(rows), tuple(criterion), totals)


def overall(rows: Sequence[SweepRow]) -> tuple[Overall, ...]:
    """The figures of each variant and score over all problems and OOD sets, in the order of the rows.

    Args:
        rows: a sweep's rows; averages among them are ignored.

    Returns:
        The figures; empty if there is only one pair of problem and OOD set.
    """
    groups: dict[tuple[str, str], list[SweepRow]] = {}
    for row in rows:
        if row.row.ood != AVERAGE:
            groups.setdefault((row.variant, row.row.score), []).append(row)
    made = tuple(
        Overall(
            variant,
            score,
            len(cells),
            statistics.fmean(cell.row.auroc for cell in cells),
            statistics.fmean(cell.row.fpr95_id_positive for cell in cells),
            min(cells, key=lambda cell: cell.row.auroc),
        )
        for (variant, score), cells in groups.items()
    )
    pairs = {(cell.problem, cell.row.ood) for cells in groups.values() for cell in cells}
    return made if len(pairs) > 1 else ()


def _criterion(problem: str, variant: str, cells: Sequence[Cell]) -> list[CriterionRow]:
    """The criterion that the trainings of some cells recorded; empty if the ID data of one were too few."""
    found = [load_prompts(cell.evaluation.parent / NEGATIVE).training[-1].self_check for cell in cells]
    known = [each for each in found if each]
    if len(known) < len(cells):
        return []
    return [
        CriterionRow(
            problem,
            variant,
            score,
            {side: mean_of([Figures(**each[side][score]) for each in known]) for side in known[0]},
        )
        for score in next(iter(known[0].values()))
    ]


def _cell_jobs(
    grid: Grid,
    task: ExperimentTask,
    folder: Path,
    variant: str,
    keys: Mapping[str, Any],
    seed: int,
    configure: Configure,
) -> list[Job]:
    own = {**keys, "data.spec": task.id, "evaluate.ood": list(task.ood), "seed": seed}
    config = configure(own)
    cell = seed_folder(folder / variant, seed)
    jobs: list[Job] = []
    source = None
    if grid.positive is None:
        # Stage 1 does not depend on the settings of stage 2 and the evaluation, so cells that differ only in those share it.
        first = {k: v for k, v in own.items() if not k.startswith(("negative.", "evaluate."))}
        made = configure(first)
        decisive = made.model_dump_json(exclude={"compute", "seed"}).encode()
        source = seed_folder(folder / POSITIVES / hashlib.sha256(decisive).hexdigest()[:8], seed) / POSITIVE
        jobs.append(Job("train-positive", source, made))
    jobs.append(Job("train-negative", cell / NEGATIVE, config, source))
    whole = configure({**own, "data.train_classes": "all"})
    if config.data.train_classes != "all":
        jobs.append(Job("transfer", cell / TRANSFERRED, whole, jobs[-1].out))
    return [*jobs, Job("evaluate", cell / EVALUATION, whole, jobs[-1].out)]


def _finished(job: Job, bench: Workbench) -> bool:
    """Whether a job's output exists and was made with the same settings from the same inputs; raises if with others."""
    try:
        return finished(job, bench)
    except UsageError as error:
        raise UsageError(
            f"{job.out} does not belong to this sweep: it was made with other settings or from other inputs, or is damaged.",
            remedy="overwrite-all",
        ) from error
