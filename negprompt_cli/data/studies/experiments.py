"""The paper's experiments as data: which ID and OOD sets, trained on which classes, beside which published figures."""

from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from negprompt_cli.data.files.yamlfile import parse_yaml, read_yaml
from negprompt_cli.data.studies.published import published
from negprompt_cli.errors import UsageError, did_you_mean, first_fault

PACKAGE = "the package's experiments"
"""What messages call the shipped file."""


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExperimentTask(_Fact):
    """One ID set with its OOD sets, as SPECs."""

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
    """Tasks whose figures are averaged, and where their published figures are.

    `optional`: left out where its data are not there. `figures`: a benchmark of `published.yaml`. `published`: a method to
    the name it has there.
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
            raise ValueError(f"no published figures of {self.figures!r} for {', '.join(unknown)}")
        return self


class Experiment(_Fact):
    """An experiment; `train_classes` as in the configuration, anything but 'all' means transfer to all classes.

    `note`: what must be known of its figures, for people.
    """

    title: str
    note: str | None = None
    train_classes: str = "all"
    benchmarks: tuple[ExperimentBenchmark, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _learned_on_what_is_there(self) -> "Experiment":
        """Prompts are learned in the first task on their data, which must not be left out."""
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
    """One experiment of the package, or of a file in the same form.

    Raises:
        UsageError: an unknown name, or a file that cannot be read or is wrong; names the field.
    """
    known, where = load_experiments(file), str(file) if file else PACKAGE
    if name not in known:
        raise UsageError(f"No experiment {name!r} in {where}.{did_you_mean(name, known)}")
    return known[name]


def load_experiments(file: Path | None = None) -> dict[str, Experiment]:
    """All experiments of the package, or of a file in the same form, by name.

    Raises:
        UsageError: a file that cannot be read or is wrong; names the field.
    """
    where = str(file) if file else PACKAGE
    if file:
        values = read_yaml(file, what="a list of experiments")
    else:
        text = (resources.files(__package__) / "experiments.yaml").read_text(encoding="utf-8")
        values = parse_yaml(text, where)
    try:
        return TypeAdapter(dict[str, Experiment]).validate_python(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_fault(error)}.") from None
