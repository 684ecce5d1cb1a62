"""`negprompt reproduce`: published experiments from training to figures."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negprompt_cli import schemas
from negprompt_cli.cli.console import Talk, hanging
from negprompt_cli.cli.launch import start_processes
from negprompt_cli.cli.options import Common, Without, argument, flag, option
from negprompt_cli.errors import NegPromptError, first_line
from negprompt_cli.wording import percent

if TYPE_CHECKING:
    from negprompt_cli.config import Config
    from negprompt_cli.data.studies.experiments import Experiment
    from negprompt_cli.steps.reproduce import Planned, Reproduction

EXAMPLES = (
    "negprompt reproduce",
    "negprompt reproduce openood --dry-run",
    "negprompt reproduce hard --data-root /data --device cuda",
)


def reproduce(
    common: Annotated[Common, Without("data")],
    experiment: str | None = argument(
        "EXPERIMENT", "Name of the experiment; without it, all are listed.", default=None
    ),
    dry_run: bool = flag("Print only the commands, the data they need, and estimates."),
    experiments: Path | None = option("YAML file with experiments on your own data.", metavar="FILE"),
) -> None:
    """Repeat a published experiment and compare the figures.

    There are the paper's three experiments, OpenOOD's near and far OOD sets, and OOD sets without ImageNet objects. Finished
    work is skipped, so the same command resumes an interrupted run.
    """
    talk = common.talk()
    from negprompt_cli.data.studies.experiments import load_experiment, load_experiments

    if experiment is None:
        _list(load_experiments(experiments), talk)
        return
    found = load_experiment(experiment, experiments)
    run = common.run or Path("runs") / f"reproduce-{experiment}"
    from negprompt_cli.config import load_config

    below = load_config(common.config).model_dump(mode="json") if common.config else None

    def configure(preset: str | None, keys: Mapping[str, Any]) -> "Config":
        # Options override a loss preset, which overrides a file of settings.
        return replace(common, config=preset).asked(keys).config(below)

    from negprompt_cli.steps.reproduce import plan_experiment, run_reproduce

    if dry_run:
        _print_plan(found, plan_experiment(found, run, configure), talk)
        return
    start_processes(configure(None, {}))
    result = run_reproduce(experiment, found, run, configure=configure, overwrite=common.overwrite, progress=talk)
    _print_figures(talk, result)
    talk.result(result.path, result.document)


def _list(experiments: "Mapping[str, Experiment]", talk: Talk) -> None:
    """Print the experiments with their data."""
    if talk.as_json:
        listed = [{"name": name, **found.model_dump(mode="json")} for name, found in experiments.items()]
        talk.document({"schema": schemas.EXPERIMENTS, "experiments": listed})
        return
    rows = []
    for name, found in experiments.items():
        tasks = [task for benchmark in found.benchmarks for task in benchmark.tasks if not benchmark.optional]
        ids = ", ".join(dict.fromkeys(task.id for task in tasks))
        rows.append([name, found.title, ids, ", ".join(dict.fromkeys(name for task in tasks for name in task.ood))])
    talk.table("Experiments", ["name", "what", "ID", "OOD"], rows)


def _print_plan(experiment: "Experiment", planned: "list[Planned]", talk: Talk) -> None:
    """Print the plan as a script; its comments list the data and the estimates."""
    from negprompt_cli.progress import Silent
    from negprompt_cli.steps.reproduce import estimates, needed_data, task_data
    from negprompt_cli.steps.shared.estimates import notes_of
    from negprompt_cli.steps.shared.workbench import Workbench

    config = planned[0].jobs[0].config
    bench = Workbench(config, Silent())
    absent: dict[str, NegPromptError] = {}
    lines = [f"# {experiment.title}", *([f"# {experiment.note}"] if experiment.note else []), "", "# Data"]
    required = {spec.text for one in planned if not one.benchmark.optional for spec, _ in task_data(one.task)}
    for spec, role in needed_data(planned):
        try:
            images = bench.image_set(spec, role)
            lines.append(f"# {role:<5} {spec.text}: {len(images)} images ({images.layout})")
        except NegPromptError as error:
            absent[spec.text] = error
            kind = "MISSING" if spec.text in required else "missing, optional"
            lines.append(f"# {role:<5} {spec.text}: {kind}. {first_line(error).removesuffix(' Tried:')}")
    lines += [
        f"# note on {name}: {' '.join(note.split())}" for name, note in notes_of(needed_data(planned), config).items()
    ]
    lines += ["", "# Estimates; nothing is measured here", *(f"# {line}" for line in estimates(planned, bench))]
    downloads = {}
    if absent:
        lines += ["", "# What is missing"]
        for fault in absent.values():
            found = _download(fault)
            if found is not None:
                downloads[found["name"]] = shlex.join(
                    ["negprompt", "data", "download", str(found["name"]), "--data-root", str(found["data_root"])]
                )
        lines += downloads.values()
        # Data sets that are parts of one have the same places and advice.
        by_hand: dict[str, list[str]] = {}
        for name, fault in absent.items():
            if _download(fault) is None:
                by_hand.setdefault("\n".join(str(fault).splitlines()[1:]), []).append(name)
        for advice, names in by_hand.items():
            lines += [f"# {', '.join(names)}, looked for in", *(f"#   {line.strip()}" for line in advice.splitlines())]
    lines += ["", "# Commands"]
    for one in planned:
        out = one.benchmark.optional and any(spec.text in absent for spec, _ in task_data(one.task))
        lines += [f"# left out without {one.task.id}: {job.command()}" if out else job.command() for job in one.jobs]
    typer.echo("\n".join(lines))
    needed = sorted(required & absent.keys())
    if needed:
        talk.warn(
            f"{len(needed)} data sets are missing: {', '.join(needed)}. `negprompt data ls` shows where to get them."
        )


def _download(error: BaseException | None) -> "Mapping[str, object] | None":
    """The facts of the download that helps with an error, or None."""
    while isinstance(error, NegPromptError):
        if error.remedy == "data-download":
            return error.facts
        error = error.__cause__
    return None


def _print_figures(talk: Talk, result: "Reproduction") -> None:
    """Print a row per method, with our AUROC / FPR95 next to the published figures of each benchmark."""
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
    for text in (result.document["note"], *(f"{k}: {v}" for k, v in result.document["data_notes"].items())):
        if text:
            talk.line(hanging("", " ".join(text.split())))
    if result.document["limited"]:
        talk.warn(
            "LIMITED: a trial on some of the images. Do not quote these figures or compare them with published ones."
        )
