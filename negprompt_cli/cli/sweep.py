"""`negprompt sweep`: a study from a YAML grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import Common, Without, option
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import percent

if TYPE_CHECKING:
    from negprompt_cli.config import Config
    from negprompt_cli.steps.sweep import CriterionRow, Overall, SweepRow

EXAMPLES = (
    "negprompt sweep grid.yaml --dry-run",
    "negprompt sweep grid.yaml --run runs/grid --device cuda",
)


def sweep(
    common: Annotated[Common, Without("data", "seed")],
    grid: Annotated[
        Path, typer.Argument(help="YAML file: problems, seeds, settings, variants, grid.", metavar="GRID.yaml")
    ],
    dry_run: Annotated[bool, option("--dry-run", help="Print the commands and stop.")] = False,
) -> None:
    """Run a grid of settings over ID problems and seeds.

    Every cell is a run folder that `negprompt compare` reads; finished cells are skipped. The last table has means over all
    problems and OOD sets, and the lowest AUROC among them. Choose settings by the table of ID data alone, or by problems
    that `negprompt data leave-out` made: settings chosen by other figures are tuned to their OOD sets.
    """
    talk = common.talk()
    from negprompt_cli.data.studies.grids import load_grid
    from negprompt_cli.steps.shared.workbench import Workbench
    from negprompt_cli.steps.sweep import plan_sweep, run_sweep

    found = load_grid(grid)
    varied = {key for keys in found.settings_by_variant().values() for key in keys}
    both = varied & {text.partition("=")[0].strip() for text in common.assignments or ()}
    if both:
        raise UsageError(f"{', '.join(sorted(both))}: set both by --set and in {grid}. Set it in one place.")
    run = common.run or Path("runs") / f"sweep-{grid.stem}"

    asked = common.asked()

    def configure(keys: Mapping[str, Any]) -> "Config":
        return asked.over(keys).config()

    if dry_run:
        lines = [job.command() for cell in plan_sweep(found, run, configure) for job in cell.jobs]
        typer.echo("\n".join(dict.fromkeys(lines)))
        return
    config = asked.config()
    start_processes(config)
    result = run_sweep(Workbench(config, talk), found, run, configure=configure, overwrite=common.overwrite)
    _print_rows(talk, result.rows)
    print_criterion(talk, result.criterion)
    print_overall(talk, result.overall)
    if result.limited:
        talk.warn("LIMITED: a trial, not figures to quote or to hold against others.")
    talk.result(result.path, result.document)


def _print_rows(talk: Talk, rows: "Sequence[SweepRow]") -> None:
    """A table per problem: a row per variant and score, a column per OOD set."""
    for problem in dict.fromkeys(row.problem for row in rows):
        mine = [row for row in rows if row.problem == problem]
        sets = list(dict.fromkeys(row.row.ood for row in mine))
        lines: dict[tuple[str, str], dict[str, str]] = {}
        for row in mine:
            lines.setdefault((row.variant, row.row.score), dict.fromkeys(sets, "-"))[row.row.ood] = row.row.text()
        columns, cells = ["variant", "score", *sets], [[*names, *line.values()] for names, line in lines.items()]
        talk.table(
            f"{problem}: AUROC / FPR95 (ID positive), per cent, mean ± standard deviation over seeds",
            columns,
            cells,
            labels=2,
        )


def print_criterion(talk: Talk, rows: "Sequence[CriterionRow]") -> None:
    """A table of the criterion of ID data alone, where the ID data allow one."""
    if not rows:
        return
    columns = ["problem", "variant", "score", *rows[0].sides, "mean"]
    cells = [
        [
            row.problem,
            row.variant,
            row.score,
            *(f"{percent(one.auroc)} / {percent(one.fpr95_id_positive)}" for one in (*row.sides.values(), row.overall)),
        ]
        for row in rows
    ]
    talk.table(
        "Part of the ID classes in the place of OOD images: AUROC / FPR95 (ID positive), per cent, mean over seeds",
        columns,
        cells,
        labels=3,
    )


def print_overall(talk: Talk, overall: "Sequence[Overall]") -> None:
    """A table over all problems and OOD sets, where there are several."""
    if not overall:
        return
    talk.table(
        f"Mean over {overall[0].cells} pairs of problem and OOD set: AUROC / FPR95 (ID positive), per cent",
        ["variant", "score", "mean", "lowest AUROC", "of"],
        [
            [
                line.variant,
                line.score,
                f"{percent(line.auroc, decimals=2)} / {percent(line.fpr95_id_positive)}",
                percent(line.lowest.row.auroc),
                f"{line.lowest.problem}, {line.lowest.row.ood}",
            ]
            for line in overall
        ],
    )
