"""`negprompt reproduce`: the paper's experiments from end to end."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli.cli.console import Talk
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import Common, Without, option
from negprompt_cli.errors import NegPromptError
from negprompt_cli.wording import percent

if TYPE_CHECKING:
    from negprompt_cli.config import Config
    from negprompt_cli.steps.reproduce import Planned, Reproduction

EXAMPLES = (
    "negprompt reproduce conventional --dry-run",
    "negprompt reproduce hard --data-root /data --device cuda",
)


def reproduce(
    common: Annotated[Common, Without("data")],
    experiment: Annotated[
        str, typer.Argument(help="conventional, hard or open-vocabulary.", metavar="EXPERIMENT", show_default=False)
    ],
    dry_run: Annotated[bool, option("--dry-run", help="Print the commands and the data they need, and stop.")] = False,
    experiments: Annotated[
        Path | None,
        option("--experiments", help="YAML file with experiments of your own data.", metavar="FILE"),
    ] = None,
) -> None:
    """Repeat an experiment of the paper and compare figures.

    Work that is finished is skipped, so an interrupted run resumes where it stopped.
    """
    talk = common.talk()
    from negprompt_cli.data.studies.experiments import load_experiment

    found = load_experiment(experiment, experiments)
    run = common.run or Path("runs") / f"reproduce-{experiment}"
    from negprompt_cli.config import load_config

    below = load_config(common.config).model_dump(mode="json") if common.config else None

    def configure(preset: str | None, keys: Mapping[str, Any]) -> "Config":
        # What is given on the line wins over a loss preset, and a preset over a file of settings.
        return replace(common, config=preset).asked(keys).config(below)

    from negprompt_cli.steps.reproduce import plan_experiment, run_reproduce

    if dry_run:
        _print_plan(plan_experiment(found, run, configure), talk)
        return
    start_processes(configure(None, {}))
    result = run_reproduce(experiment, found, run, configure=configure, overwrite=common.overwrite, progress=talk)
    _print_figures(talk, result)
    talk.result(result.path, result.document)


def _print_plan(planned: "list[Planned]", talk: Talk) -> None:
    """The commands on stdout, as a script whose comments say which data are there."""
    from negprompt_cli.progress import Silent
    from negprompt_cli.steps.reproduce import needed_data
    from negprompt_cli.steps.shared.workbench import Workbench

    bench = Workbench(planned[0].jobs[0].config, Silent())
    lines, missing = [], 0
    for spec, role in needed_data(planned):
        try:
            images = bench.image_set(spec, role)
            lines.append(f"# {role:<5} {spec.text}: {len(images)} images ({images.layout})")
        except NegPromptError as error:
            missing += 1
            lines.append(f"# {role:<5} {spec.text}: MISSING. {str(error).splitlines()[0].removesuffix(' Tried:')}")
    typer.echo("\n".join(["# Data", *lines, "", "# Commands", *(j.command() for one in planned for j in one.jobs)]))
    if missing:
        talk.warn(
            f"{missing} data sets are missing; `negprompt data ls` says where they come from, "
            "`negprompt data check NAME` where they were looked for."
        )


def _print_figures(talk: Talk, result: "Reproduction") -> None:
    """One row per method, and for each benchmark our AUROC / FPR95 beside the published."""
    benchmarks = list(dict.fromkeys(f.benchmark for f in result.figures))
    columns = ["method", *(c for b in benchmarks for c in (b, "published", "ID acc."))]
    rows = []
    for method in dict.fromkeys(f.method for f in result.figures):
        row = [method]
        for f in (f for f in result.figures if f.method == method):
            theirs = f.published
            beside = f"{percent(theirs.auroc)} / {percent(theirs.fpr95)} [{theirs.mark}]" if theirs else "-"
            row += [f"{percent(f.auroc)} / {percent(f.fpr95)}", beside, percent(f.accuracy)]
        rows.append(row)
    talk.table(f"{result.document['title']}: AUROC / FPR95 (ID positive), per cent", columns, rows, labels=1)
    if result.document["limited"]:
        talk.warn("LIMITED: a trial, not figures to quote or to hold against published ones.")
