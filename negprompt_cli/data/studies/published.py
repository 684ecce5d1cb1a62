"""Published figures, each with its source and its evidence mark: facts in `published.yaml`, validated here."""

from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Benchmark(_Fact):
    """What figures belong to: ID sets and OOD sets by catalogue name; several ID sets are averaged over."""

    title: str
    id: tuple[str, ...]
    ood: tuple[str, ...]


class Figure(_Fact):
    """One method's published result: AUROC and FPR95 with ID positive, fractions."""

    benchmark: str
    method: str
    auroc: Fraction
    fpr95: Fraction
    mark: Literal["code", "quoted", "unverified"]
    source: str
    note: str | None = None


class Published(_Fact):
    """All published figures by benchmark."""

    benchmarks: dict[str, Benchmark]
    figures: tuple[Figure, ...]

    @model_validator(mode="after")
    def _known_benchmarks(self) -> "Published":
        unknown = {f.benchmark for f in self.figures} - set(self.benchmarks)
        if unknown:
            raise ValueError(f"figures of unknown benchmarks: {sorted(unknown)}")
        return self

    def of(self, benchmark: str) -> list[Figure]:
        """The figures of a benchmark, in order."""
        return [f for f in self.figures if f.benchmark == benchmark]

    def benchmark_of(self, id_name: str, ood_names: list[str]) -> str | None:
        """The single-ID benchmark that an evaluation is: the same ID set and the same OOD sets in any order, or None."""
        for name, benchmark in self.benchmarks.items():
            if benchmark.id == (id_name,) and set(benchmark.ood) == set(ood_names):
                return name
        return None


@lru_cache(maxsize=1)
def published() -> Published:
    """The figures that come with the package."""
    text = (resources.files(__package__) / "published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
