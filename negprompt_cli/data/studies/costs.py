"""Estimates of an experiment's disk space and time, from the facts in `costs.yaml`."""

from functools import lru_cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict


class Costs(BaseModel):
    """Sizes in bytes, speeds in images per second, and seconds of one CPU thread per prompt of a training step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes_per_image: int
    bytes_per_feature: int
    encoding_paces: tuple[int, ...]
    seconds_per_prompt: float


@lru_cache(maxsize=1)
def costs() -> Costs:
    """Return the facts that are part of the package."""
    text = (resources.files(__package__) / "costs.yaml").read_text(encoding="utf-8")
    return Costs.model_validate(yaml.safe_load(text))
