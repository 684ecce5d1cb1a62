"""The file of a sweep: settings, ID problems and seeds.

    problems:
      near: {id: tiny-imagenet#0-99, ood: [tiny-imagenet#100-199, textures]}
    seeds: [0, 1, 2]
    positive: zero-shot            # untrained positives; stage 1 is trained without it
    settings: {data.shots: 16}     # keys that hold for all cells
    variants:                      # named sets of keys, tried in turn
      default score: {}
      paper's score: {negative.score: paper}
    grid:                          # keys with the values to try, all combinations
      negative.count: [1, 2, 4]

Only `problems` is required. A cell is a combination of a problem, a variant, a point of the grid and a seed. A sweep cannot
vary models or hardware, because each would need its own model.
"""

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from negprompt_cli.data.files.yamlfile import read_yaml
from negprompt_cli.data.studies.experiments import ExperimentTask
from negprompt_cli.errors import UsageError, first_fault

MAX_CELLS = 10_000
OWN_KEYS = ("model", "compute", "seed", "data.spec", "evaluate.ood", "evaluate.scores")
"""Keys and sections that are constant in a sweep, or that another part of the file sets."""

Name = Annotated[str, Field(pattern=r"^[\w .,=+-]{1,80}$")]


class Grid(BaseModel):
    """The content of a sweep's file; see the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    problems: dict[Name, ExperimentTask] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    positive: Literal["zero-shot"] | None = None
    settings: dict[str, Any] = {}
    variants: dict[Name, dict[str, Any]] = {}
    grid: dict[str, tuple[Any, ...]] = {}

    def settings_by_variant(self) -> dict[str, dict[str, Any]]:
        """Return the settings (dotted keys) of every variant and point of the grid, by a unique name.

        Raises:
            UsageError: two have the same name.
        """
        made: dict[str, dict[str, Any]] = {}
        ends = [key.rsplit(".", 1)[-1] for key in self.grid]
        labels = [end if ends.count(end) == 1 else key for key, end in zip(self.grid, ends, strict=True)]
        for variant, keys in (self.variants or {"": {}}).items():
            for values in itertools.product(*self.grid.values()):
                point = [f"{label}={_short(value)}" for label, value in zip(labels, values, strict=True)]
                name = " ".join(filter(None, [variant, *point])) or "default"
                if name in made:
                    raise UsageError(f"Two cells of the sweep are called '{name}'. Name them under `variants`.")
                made[name] = {**self.settings, **keys, **dict(zip(self.grid, values, strict=True))}
        return made


def load_grid(path: Path) -> Grid:
    """Read the file of a sweep.

    Raises:
        UsageError: the file is missing or not YAML; a field is wrong or unknown; a sweep cannot vary a key; or there are too
            many cells.
    """
    values = read_yaml(path, what="the grid of a sweep")
    try:
        grid = Grid.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_fault(error)}.") from None
    for key in {*grid.settings, *grid.grid, *(key for keys in grid.variants.values() for key in keys)}:
        if any(key == own or key.startswith(f"{own}.") for own in OWN_KEYS):
            raise UsageError(f"{path}: a sweep cannot vary '{key}'. Problems, seeds and the command line set it.")
    if len(set(grid.seeds)) != len(grid.seeds):
        raise UsageError(f"{path}: a seed is given twice.")
    cells = len(grid.problems) * len(grid.seeds) * max(1, len(grid.variants))
    for values in grid.grid.values():
        cells *= len(values)
    if not 0 < cells <= MAX_CELLS:
        raise UsageError(f"{path} has {cells} cells, but a sweep must have 1 to {MAX_CELLS}.")
    return grid


def _short(value: Any) -> str:
    """Return a value as part of a folder name."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
    return "".join(c if c.isalnum() or c in "-+." else "_" for c in text)[:60]
