"""Published results, each with its source and an evidence mark. The data are in `published.yaml` and validated here."""

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from negprompt_cli.data.files.yamlfile import package_yaml

Fraction = Annotated[float, Field(ge=0, le=1)]
Mark = Literal["recomputed", "repository", "quoted", "notes", "unverified"]
MARKS: dict[Mark, str] = {
    "recomputed": "computed with this package's metrics from per-image scores that the authors published",
    "repository": "read in the authors' repository",
    "quoted": "quoted by other papers or by several independent notes, not read in the tables of the paper",
    "notes": "from one reader's notes on the paper",
    "unverified": "reported without its place in the paper",
}
"""Evidence marks and their meanings, strongest first. No result was read in the tables of its paper."""


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Benchmark(_Fact):
    """A benchmark: ID and OOD sets by catalogue name, and an architecture. Results are means over several ID sets.

    `backbone`: open_clip's name of the architecture; weights differ between papers.
    """

    title: str
    id: tuple[str, ...]
    ood: tuple[str, ...]
    backbone: str


class Figure(_Fact):
    """One method's published result, as mean over the benchmark's OOD sets, in fractions.

    `fpr95`: with ID positive. `fpr95_ood_positive`: with OOD positive, if known. `needs`: the data from which the method
    learns; methods that learn from the test stream solve another task. `mark`: the evidence, one of `MARKS`.
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
        """Return FPR95 in the convention with this metric name; None if unknown."""
        return self.fpr95 if metric == "fpr95_id_positive" else self.fpr95_ood_positive


class Published(_Fact):
    """All published results by benchmark."""

    benchmarks: dict[str, Benchmark]
    figures: tuple[Figure, ...]

    @model_validator(mode="after")
    def _known_benchmarks(self) -> "Published":
        unknown = {f.benchmark for f in self.figures} - set(self.benchmarks)
        if unknown:
            raise ValueError(f"there are results of unknown benchmarks: {sorted(unknown)}")
        return self

    def of(self, benchmark: str) -> list[Figure]:
        """Return the results of a benchmark, in order."""
        return [f for f in self.figures if f.benchmark == benchmark]

    def benchmarks_of(self, id_name: str, ood_names: list[str]) -> list[str]:
        """Return the benchmarks with exactly this ID set and these OOD sets, in any order."""
        return [name for name, b in self.benchmarks.items() if b.id == (id_name,) and set(b.ood) == set(ood_names)]

    def fits(self, benchmark: str, model: str) -> bool:
        """Whether an open_clip model has the architecture of a benchmark, with any weights."""
        backbone = self.benchmarks[benchmark].backbone
        if ":" not in model:
            return model.removesuffix("-quickgelu") == backbone
        # For a folder or a repository of the hub, only the name can show the architecture.
        last = model.rstrip("/").rsplit("/", 1)[-1].casefold()
        return backbone.casefold() in last and not any(other in last for other in ("siglip", "plus"))


@lru_cache(maxsize=1)
def published() -> Published:
    """Return the published results that are part of the package."""
    return Published.model_validate(package_yaml(__package__, "published.yaml"))
