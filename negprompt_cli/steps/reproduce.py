"""The paper's experiments from training to figures, which are shown next to the published ones.

An experiment is a list of jobs. Each job is one subcommand with one output, and a plan shows them as commands. A job is
finished, and skipped, if its output was made with the same settings from the same inputs. The rows are those of the paper's
tables: MCM on zero-shot prompts and on learned positives (CoOp), the maximum cosine of the latter, and NegPrompt with each
of the three loss presets. `negprompt compare` has the published figures of other papers' methods.
"""

import json
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from negprompt_cli import schemas
from negprompt_cli.config import Config, load_config
from negprompt_cli.data.files.atomic import atomic_write_text
from negprompt_cli.data.prepare.class_file import class_lines, write_classes
from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.results.checkpoints import checkpoint_path
from negprompt_cli.data.results.evaluations import AVERAGE, EvaluationDocument, load_evaluation
from negprompt_cli.data.results.runs import POSITIVE, ZERO_SHOT, default_run_folder
from negprompt_cli.data.sets.class_list import novel_names, read_class_list
from negprompt_cli.data.sets.layouts import Role
from negprompt_cli.data.sets.spec import Spec, parse_spec, split_specs
from negprompt_cli.data.studies.experiments import EvaluationTask, Experiment, ExperimentBenchmark, ExperimentTask
from negprompt_cli.data.studies.published import Figure, published
from negprompt_cli.errors import UsageError, first_line
from negprompt_cli.loss_presets import LOSS_PRESETS
from negprompt_cli.progress import Progress
from negprompt_cli.steps.evaluate import run_evaluate
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.estimates import Training, data_sizes, estimate_lines, notes_of, training
from negprompt_cli.steps.shared.preflight import together
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.steps.train_negative import run_train_negative
from negprompt_cli.steps.train_positive import run_train_positive
from negprompt_cli.steps.transfer import run_transfer
from negprompt_cli.wording import file_name

SUMMARY = "reproduction.json"
PRESETS = tuple(LOSS_PRESETS)
"""Loss presets; the package has a configuration of the same name, with the paper's score, for each."""
BASELINES: Mapping[str, str] = {"mcm": "mcm-zero-shot", "coop + mcm": "mcm", "max-logit": "max-logit"}
"""Rows without negatives, and their scores; measured once, with the first preset's artifact."""

Configure = Callable[[str | None, Mapping[str, Any]], Config]
"""Resolves a configuration from a preset and dotted keys, which the settings of the caller override."""


@dataclass(frozen=True)
class Job:
    """One subcommand with one output.

    `source`: the artifact it starts from; None for stage 1, and for stage 2 with untrained positives. `config`: its resolved
    configuration; for a transfer, that of the experiment, whose `data.spec` names the classes.
    """

    kind: Literal["train-positive", "train-negative", "data classes", "transfer", "evaluate"]
    out: Path
    config: Config
    source: Path | None = None

    def arguments(self) -> list[str]:
        """The command's arguments, beginning with the program's name."""
        if self.kind == "data classes":
            data = self.config.data
            more = {"--data-root": data.root, "--catalogue": data.catalogue, "--class-names": data.class_names}
            given = [word for name, value in more.items() if value for word in (name, str(value))]
            return ["negprompt", "data", "classes", data.spec, *given, "--out", str(self.out)]
        words = ["negprompt", self.kind, "--data", self.config.data.spec]
        for key, value in _changed(self.config.model_dump(mode="json"), Config().model_dump(mode="json")):
            if key != "data.spec":
                text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("\n...")
                words += ["--set", f"{key}={text}"]
        if self.kind == "train-negative":
            words += ["--positive", str(self.source or ZERO_SHOT)]
        elif self.source is not None:
            words += ["--prompts", str(self.source)]
        if self.kind == "transfer":
            words += ["--classes", str(class_list(self.out))]
        return [*words, "--out", str(self.out)]

    def command(self) -> str:
        """The command as one line for a shell."""
        return shlex.join(self.arguments())


@dataclass(frozen=True)
class Planned:
    """A task of a benchmark with its jobs, and the evaluation of each loss preset."""

    benchmark: ExperimentBenchmark
    task: EvaluationTask
    jobs: tuple[Job, ...]
    evaluations: dict[str, Path]


@dataclass(frozen=True)
class MethodFigures:
    """One method on one benchmark: means over its tasks (fractions), and the published figure or None."""

    method: str
    benchmark: str
    auroc: float
    fpr95: float
    accuracy: float
    published: Figure | None


@dataclass(frozen=True)
class Reproduction:
    """The result of a reproduction."""

    path: Path
    document: dict[str, Any]
    figures: tuple[MethodFigures, ...]


def plan_experiment(experiment: Experiment, run: Path, configure: Configure) -> list[Planned]:
    """The jobs of an experiment, in order; no file is opened. Tasks that train on the same data share the training.

    Args:
        experiment: the experiment.
        run: the folder for all files.
        configure: returns the configuration of a preset with keys set.
    """
    planned: list[Planned] = []
    learned: dict[str, dict[str, Path]] = {}
    for b, benchmark in enumerate(experiment.benchmarks, start=1):
        for t, task in enumerate(benchmark.tasks, start=1):
            folder = run / f"{b}.{t}-{file_name(default_run_folder(task.id).name)}"
            first = task.learned_on not in learned
            prompts = learned.setdefault(task.learned_on, {})
            jobs = _stage_1(experiment, task, folder, configure) if first else []
            evaluations = {}
            # Each preset is evaluated directly after its training.
            for preset in PRESETS:
                if first:
                    jobs += _stage_2(experiment, task, folder, preset, configure)
                    prompts[preset] = jobs[-1].out
                scores = ["negprompt", *(BASELINES.values() if preset == PRESETS[0] else ())]
                asked = {"data.spec": task.id, "evaluate.ood": list(task.ood), "evaluate.scores": scores}
                evaluations[preset] = folder / f"evaluation-{preset}.json"
                jobs.append(Job("evaluate", evaluations[preset], configure(None, asked), prompts[preset]))
            planned.append(Planned(benchmark, task, tuple(jobs), evaluations))
    return planned


def _trained(experiment: Experiment, task: EvaluationTask) -> dict[str, Any]:
    """The settings of both stages. The paper's stage 1 is CoOp, which has no anchor."""
    return {"data.spec": task.learned_on, "data.train_classes": experiment.train_classes, "positive.loss": "coop"}


def _stage_1(experiment: Experiment, task: EvaluationTask, folder: Path, configure: Configure) -> list[Job]:
    """The jobs for all loss presets: stage 1 and, if only some classes are trained on, the list of all."""
    positive = folder / POSITIVE
    jobs = [Job("train-positive", positive, configure(None, _trained(experiment, task)))]
    if experiment.train_classes != "all":
        whole = configure(None, {"data.spec": task.learned_on})
        jobs.append(Job("data classes", class_list(positive), whole))
    return jobs


def _stage_2(
    experiment: Experiment, task: EvaluationTask, folder: Path, preset: str, configure: Configure
) -> list[Job]:
    """The jobs of one loss preset: stage 2 and, if only some classes are trained on, the transfer to all."""
    negative = folder / f"negative-{preset}.safetensors"
    jobs = [Job("train-negative", negative, configure(preset, _trained(experiment, task)), folder / POSITIVE)]
    if experiment.train_classes != "all":
        whole = configure(None, {"data.spec": task.learned_on})
        jobs.append(Job("transfer", folder / f"transfer-{preset}.safetensors", whole, negative))
    return jobs


def present(planned: Sequence[Planned], bench: Workbench) -> list[Planned]:
    """The tasks without those that are optional and whose data are missing; reports these.

    A task is not optional if later ones use what it learns.
    """
    kept = []
    for one in planned:
        try:
            if one.benchmark.optional:
                together(*(partial(bench.image_set, spec, role) for spec, role in task_data(one.task)))
        except UsageError as error:
            reason = first_line(error).removesuffix(" Tried:")
            bench.progress.say(f"Left out because its data are missing: {one.benchmark.name}. {reason}")
            continue
        kept.append(one)
    return kept


def check_data(planned: Sequence[Planned], bench: Workbench) -> None:
    """Resolve every data set that the jobs need; opens no image.

    Raises:
        UsageError: data are missing; the message names all of them.
    """
    together(*(partial(bench.image_set, spec, role) for spec, role in needed_data(planned)))


def needed_data(planned: Sequence[Planned]) -> list[tuple[Spec, Role]]:
    """The data sets that the jobs need, with their roles, without repetitions."""
    return list(dict.fromkeys(need for one in planned for need in task_data(one.task)))


def task_data(task: ExperimentTask) -> list[tuple[Spec, Role]]:
    """The data sets that a task needs, each with its role."""
    return [
        (parse_spec(task.learned_on), "train"),
        (parse_spec(task.id), "eval"),
        *((spec, "ood") for text in task.ood for spec in split_specs(text)),
    ]


def run_reproduce(
    name: str, experiment: Experiment, run: Path, *, configure: Configure, overwrite: bool, progress: Progress
) -> Reproduction:
    """Run the unfinished jobs of an experiment, and compare its figures with the published ones.

    Args:
        name: the experiment's name, for the document.
        experiment: the experiment.
        run: the folder for all files; reproduction.json is written into it.
        configure: returns the configuration of a preset with keys set.
        overwrite: run all jobs again; otherwise finished work is skipped.

    Raises:
        UsageError: data are missing (the message names all of them), or an output was made with other settings.
        NegPromptError: a job failed.
    """
    planned = plan_experiment(experiment, run, configure)
    bench = Workbench(planned[0].jobs[0].config, progress)
    planned = present(planned, bench)
    check_data(planned, bench)
    for one in planned:
        for job in one.jobs:
            if not overwrite and finished(job, bench):
                progress.say(f"Already finished: {job.out}")
                continue
            progress.say(f"{job.kind}: {job.out}")
            run_job(job, bench, overwrite=overwrite)
    documents = [{preset: load_evaluation(path) for preset, path in one.evaluations.items()} for one in planned]
    figures = tuple(_figures(experiment, planned, documents))
    document = {
        "schema": schemas.REPRODUCTION,
        "experiment": name,
        "title": experiment.title,
        "limited": any(d.limited for by_preset in documents for d in by_preset.values()),
        "model": planned[0].jobs[0].config.model.model_dump(),
        "seed": planned[0].jobs[0].config.seed,
        "fpr95": "ID positive",
        "note": experiment.note,
        "data_notes": notes_of(needed_data(planned), planned[0].jobs[0].config),
        "evaluations": [str(path) for one in planned for path in one.evaluations.values()],
        "sources": {
            str(path): found[preset].provenance
            for one, found in zip(planned, documents, strict=True)
            for preset, path in one.evaluations.items()
        },
        "rows": [
            {
                "method": f.method,
                "benchmark": f.benchmark,
                "auroc": f.auroc,
                "fpr95_id_positive": f.fpr95,
                "accuracy": f.accuracy,
                "published": f.published.model_dump(mode="json") if f.published else None,
            }
            for f in figures
        ],
    }
    path = run / SUMMARY
    atomic_write_text(path, json.dumps(document, indent=1) + "\n")
    return Reproduction(path, document, figures)


def finished(job: Job, bench: Workbench) -> bool:
    """Whether a job's output exists, without a checkpoint, and was made with the same settings from the same inputs.

    Raises:
        UsageError: the output was made with other settings or from other inputs.
    """
    if not job.out.is_file() or checkpoint_path(job.out).is_file():
        return False
    other = UsageError(
        f"{job.out} was made with other settings or from other inputs than this reproduction's.",
        remedy="overwrite-all",
    )
    if job.kind == "data classes":
        same = job.out.read_text("utf-8") == class_lines(_classes(job, bench))
    elif job.kind == "transfer":
        made = load_prompts(job.out)
        same = (
            made.parents == (_parent(job),)
            and made.classes == novel_names(read_class_list(class_list(job.out))).classes
        )
    else:
        record = job.out.with_name(f"{job.out.stem}.config.yaml")
        same = record.is_file() and _decisive(load_config(str(record))) == _decisive(job.config)
        if same and job.source is not None:
            if job.kind == "train-negative":
                same = load_prompts(job.out).parents == (_parent(job),)
            else:
                same = load_evaluation(job.out).prompts.sha256 == load_prompts(job.source).sha256
    if not same:
        raise other
    return True


def run_job(job: Job, bench: Workbench, *, overwrite: bool) -> None:
    """Run the step of one job, or resume it after an interruption. Errors are those of the step."""
    mine = bench.with_config(job.config)
    if job.kind == "train-positive":
        run_train_positive(mine, job.out, overwrite=overwrite, resume=not overwrite)
    elif job.kind == "train-negative":
        positive = None if job.source is None else ArtifactFile(job.source)
        run_train_negative(mine, job.out, positive=positive, overwrite=overwrite, resume=not overwrite)
    elif job.kind == "evaluate":
        run_evaluate(mine, job.out, artifact=ArtifactFile(_source(job)), overwrite=overwrite)
    elif job.kind == "data classes":
        write_classes(_classes(job, mine), job.out, overwrite=overwrite)
    else:
        names = novel_names(read_class_list(class_list(job.out)))
        artifact = ArtifactFile(_source(job))
        run_transfer(mine, job.out, artifact=artifact, names=names, extend=False, overwrite=overwrite)


def class_list(artifact: Path) -> Path:
    """The class list written beside a transferred artifact."""
    return artifact.with_name("classes.txt")


def estimates(planned: Sequence[Planned], bench: Workbench) -> list[str]:
    """Estimates of the jobs' disk space and time, as lines of text; nothing is measured."""
    needs = needed_data(planned)
    sizes = data_sizes(needs, bench)
    trainings: list[Training | None] = []
    for job in (job for one in planned for job in one.jobs):
        config, name = job.config, f"{job.out.parent.name}/{job.out.name}"
        if job.kind == "train-positive":
            trainings.append(training(name, config, config.positive.schedule, 1, sizes))
        elif job.kind == "train-negative":
            trainings.append(training(name, config, config.negative.schedule, config.negative.count, sizes))
    return estimate_lines(needs, sizes, trainings, planned[0].jobs[0].config)


def _figures(
    experiment: Experiment, planned: Sequence[Planned], documents: Sequence[Mapping[str, EvaluationDocument]]
) -> Iterator[MethodFigures]:
    """A row per method and benchmark, means over the benchmark's tasks."""
    methods = {name: ("separation", score) for name, score in BASELINES.items()}
    methods |= {f"negprompt {preset}": (preset, "negprompt") for preset in PRESETS}
    for benchmark in experiment.benchmarks:
        mine = [d for one, d in zip(planned, documents, strict=True) if one.benchmark is benchmark]
        if not mine:  # left out
            continue
        model = planned[0].jobs[0].config.model.name
        fitting = benchmark.figures is not None and published().fits(benchmark.figures, model)
        known = {figure.method: figure for figure in published().of(benchmark.figures or "") if fitting}
        for method, (preset, score) in methods.items():
            rows = [row for d in mine if (row := d[preset].row(score, AVERAGE)) is not None]
            yield MethodFigures(
                method=method,
                benchmark=benchmark.name,
                auroc=statistics.fmean(row.auroc for row in rows),
                fpr95=statistics.fmean(row.fpr95_id_positive for row in rows),
                accuracy=statistics.fmean(d[preset].id.accuracy for d in mine),
                published=known.get(benchmark.published.get(method, "")),
            )


def _classes(job: Job, bench: Workbench) -> Any:
    return bench.image_set(parse_spec(job.config.data.spec), "eval").classes


def _source(job: Job) -> Path:
    if job.source is None:
        raise ValueError(f"{job.kind} needs a source")
    return job.source


def _parent(job: Job) -> Any:
    return load_prompts(_source(job)).parent()


def _decisive(config: Config) -> dict[str, Any]:
    """The settings that affect a result: all except the hardware."""
    return config.model_dump(mode="json", exclude={"compute"})


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys whose values differ from the defaults; a section that is absent by default is one value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _changed(value, defaults.get(key) or {}, f"{prefix}{key}.")
        elif key not in defaults or value != defaults[key]:
            yield prefix + key, value
