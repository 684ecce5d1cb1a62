"""The paper's experiments as data: which ID and OOD sets, trained on which classes, beside which published figures."""

from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from negprompt_cli.data.files.textfile import parse_yaml, read_yaml
from negprompt_cli.data.studies.published import published
from negprompt_cli.errors import UsageError, did_you_mean, first_fault


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExperimentTask(_Fact):
    """One ID set with its OOD sets, as SPECs."""

    id: str
    ood: tuple[str, ...] = Field(min_length=1)


class ExperimentBenchmark(_Fact):
    """Tasks whose figures are averaged, and where their published figures are.

    `figures`: a benchmark of `published.yaml`. `published`: a method to the name it has there.
    """

    name: str
    tasks: tuple[ExperimentTask, ...] = Field(min_length=1)
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
    """An experiment; `train_classes` as in the configuration, anything but 'all' means transfer to all classes."""

    title: str
    train_classes: str = "all"
    benchmarks: tuple[ExperimentBenchmark, ...] = Field(min_length=1)


def load_experiment(name: str, file: Path | None = None) -> Experiment:
    """One experiment of the package, or of a file in the same form.

    Raises:
        UsageError: an unknown name, or a file that cannot be read or is wrong; names the field.
    """
    where = str(file) if file else "the package's experiments"
    if file:
        values = read_yaml(file, what="a list of experiments")
    else:
        text = (resources.files(__package__) / "experiments.yaml").read_text(encoding="utf-8")
        values = parse_yaml(text, where)
    try:
        known = TypeAdapter(dict[str, Experiment]).validate_python(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_fault(error)}.") from None
    if name not in known:
        raise UsageError(f"No experiment {name!r} in {where}.{did_you_mean(name, known)}")
    return known[name]
