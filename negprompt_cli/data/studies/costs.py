"""Estimates of an experiment's disk space and time, from the facts in `costs.yaml`."""

from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from negprompt_cli.data.files.yamlfile import package_yaml


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
    return Costs.model_validate(package_yaml(__package__, "costs.yaml"))
