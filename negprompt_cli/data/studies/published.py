"""Published figures, each with its source and its evidence mark: facts in `published.yaml`, validated here."""

from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Mark = Literal["recomputed", "repository", "quoted", "notes", "unverified"]
MARKS: dict[Mark, str] = {
    "recomputed": "computed with this package's metrics from per-image scores that the authors published",
    "repository": "read in the authors' repository",
    "quoted": "quoted by other papers or by several independent notes, not read in the tables of the paper",
    "notes": "from one reader's notes on the paper",
    "unverified": "passed on without its place in the paper",
}
"""Marks of evidence, the strongest first, and what each means. No figure was read in the tables of its paper."""


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Benchmark(_Fact):
    """What figures belong to: ID and OOD sets by catalogue name, several ID sets being averaged over, and an architecture.

    `backbone`: open_clip's name of it; weights differ between papers.
    """

    title: str
    id: tuple[str, ...]
    ood: tuple[str, ...]
    backbone: str


class Figure(_Fact):
    """One method's published result, a mean over the benchmark's OOD sets; fractions.

    `fpr95`: with ID positive. `fpr95_ood_positive`: with OOD positive, where it is known. `needs`: what the method learns
    from; those that learn from the test stream are another task. `mark`: the evidence, as `MARKS` says.
    """

    benchmark: str
    method: str
    auroc: Fraction | None = None
    fpr95: Fraction
    fpr95_ood_positive: Fraction | None = None
    needs: Literal["nothing", "ID images", "other data", "test stream"]
    mark: Mark
    source: str
    note: str | None = None

    def fpr(self, metric: str) -> float | None:
        """FPR95 by its name among the metrics, in either convention."""
        return self.fpr95 if metric == "fpr95_id_positive" else self.fpr95_ood_positive


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

    def benchmarks_of(self, id_name: str, ood_names: list[str]) -> list[str]:
        """The single-ID benchmarks that an evaluation is: the same ID set and the same OOD sets in any order."""
        return [name for name, b in self.benchmarks.items() if b.id == (id_name,) and set(b.ood) == set(ood_names)]

    def fits(self, benchmark: str, model: str) -> bool:
        """Whether figures of a benchmark are of the architecture of an open_clip model, whatever its weights."""
        backbone = self.benchmarks[benchmark].backbone
        if ":" not in model:
            return model.removesuffix("-quickgelu") == backbone
        # A folder or a repository of the hub has the architecture in its name, if anywhere.
        last = model.rstrip("/").rsplit("/", 1)[-1].casefold()
        return backbone.casefold() in last and not any(other in last for other in ("siglip", "plus"))


@lru_cache(maxsize=1)
def published() -> Published:
    """The figures that come with the package."""
    text = (resources.files(__package__) / "published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
