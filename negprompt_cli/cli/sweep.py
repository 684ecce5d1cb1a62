"""`negprompt sweep`: a grid of settings, described in YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import Common, Without, argument, flag
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
    grid: Path = argument("GRID.yaml", "YAML file with problems, and optionally seeds, settings, variants and grid."),
    dry_run: bool = flag("Print only the commands."),
) -> None:
    """Run a grid of settings over ID problems and seeds.

    A small GRID.yaml is {problems: {mine: {id: photos, ood: ["noise"]}}, grid: {negative.count: [1, 2, 4]}}. Each cell of
    the grid is a run folder, which `negprompt compare` can read. Finished cells are skipped.

    Choose settings only by the table of ID data, or by problems that `negprompt data leave-out` made. Otherwise they are
    tuned to the OOD sets.
    """
    talk = common.talk()
    from negprompt_cli.data.studies.grids import load_grid

    found = load_grid(grid)
    varied = {key for keys in found.settings_by_variant().values() for key in keys}
    both = varied & {text.partition("=")[0].strip() for text in common.assignments or ()}
    if both:
        raise UsageError(f"{', '.join(sorted(both))} is set both with --set and in {grid}. Set it in only one place.")
    run = common.run or Path("runs") / f"sweep-{grid.stem}"

    asked = common.asked()

    def configure(keys: Mapping[str, Any]) -> "Config":
        return asked.over(keys).config()

    from negprompt_cli.steps.shared.workbench import Workbench
    from negprompt_cli.steps.sweep import plan_sweep, run_sweep

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
        talk.warn("LIMITED: a trial on some of the images. Do not quote these figures or compare them with others.")
    talk.result(result.path, result.document)


def _print_rows(talk: Talk, rows: "Sequence[SweepRow]") -> None:
    """Print a table per problem, with a row per variant and score and a column per OOD set."""
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
    """Print the table of the criterion that uses ID data alone, if the ID data suffice for it."""
    if not rows:
        return
    talk.line("")
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
        "ID data alone, with some ID classes used as OOD: AUROC / FPR95 (ID positive), per cent, mean over seeds",
        columns,
        cells,
        labels=3,
    )


def print_overall(talk: Talk, overall: "Sequence[Overall]") -> None:
    """Print a table over all problems and OOD sets if there are several."""
    if not overall:
        return
    talk.line("")
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
