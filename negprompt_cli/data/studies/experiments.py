"""The paper's experiments as data: ID and OOD sets, training classes, and published results to compare with."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from negprompt_cli.data.files.yamlfile import package_yaml, read_yaml
from negprompt_cli.data.studies.published import published
from negprompt_cli.errors import UsageError, did_you_mean, first_fault

PACKAGE = "the package's experiments"
"""Name of the package's own file in messages."""


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExperimentTask(_Fact):
    """An ID set and its OOD sets, as SPECs."""

    id: str
    ood: tuple[str, ...] = Field(min_length=1)

    @property
    def learned_on(self) -> str:
        """The data that prompts are learned on."""
        return self.id


class EvaluationTask(ExperimentTask):
    """A task whose prompts may be learned on other data, `train`, that have the same classes."""

    train: str | None = None

    @property
    def learned_on(self) -> str:
        """The data that prompts are learned on."""
        return self.train or self.id


class ExperimentBenchmark(_Fact):
    """Tasks whose results are averaged, and the published results to compare with.

    `optional`: the benchmark is left out if its data are missing. `figures`: a benchmark of `published.yaml`. `published`:
    for each method its name in that file.
    """

    name: str
    tasks: tuple[EvaluationTask, ...] = Field(min_length=1)
    optional: bool = False
    figures: str | None = None
    published: dict[str, str] = {}

    @model_validator(mode="after")
    def _known_figures(self) -> "ExperimentBenchmark":
        known = {figure.method for figure in published().of(self.figures or "")}
        unknown = sorted(set(self.published.values()) - known)
        if unknown:
            raise ValueError(f"there are no published results of {self.figures!r} for {', '.join(unknown)}")
        return self


class Experiment(_Fact):
    """An experiment. `train_classes`: as in the configuration; any value except 'all' means transfer to all classes.

    `note`: explanation of its results for readers.
    """

    title: str
    note: str | None = None
    train_classes: str = "all"
    benchmarks: tuple[ExperimentBenchmark, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _learned_on_what_is_there(self) -> "Experiment":
        """Check that the first task that learns on some data is not in an optional benchmark."""
        learned: set[str] = set()
        for benchmark in self.benchmarks:
            for task in benchmark.tasks:
                if benchmark.optional and task.learned_on not in learned:
                    raise ValueError(
                        f"the optional benchmark {benchmark.name!r} is the first to learn on {task.learned_on}"
                    )
                learned.add(task.learned_on)
        return self


def load_experiment(name: str, file: Path | None = None) -> Experiment:
    """Load one experiment of the package, or of a file in the same form.

    Raises:
        UsageError: the name is unknown, or the file cannot be read or is invalid (the message names the field).
    """
    known, where = load_experiments(file), str(file) if file else PACKAGE
    if name not in known:
        raise UsageError(f"No experiment {name!r} in {where}.{did_you_mean(name, known)}")
    return known[name]


def load_experiments(file: Path | None = None) -> dict[str, Experiment]:
    """Load all experiments of the package, or of a file in the same form, by name.

    Raises:
        UsageError: the file cannot be read or is invalid (the message names the field).
    """
    where = str(file) if file else PACKAGE
    values = read_yaml(file, what="a list of experiments") if file else package_yaml(__package__, "experiments.yaml")
    try:
        return TypeAdapter(dict[str, Experiment]).validate_python(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_fault(error)}.") from None
