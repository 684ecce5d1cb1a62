"""The presets of stage 2's loss, by name; `engine/losses` has their terms. Imports no torch.

separation   the package's own, with floors in the score
quoted       as independent notes quote the paper's equations 4 to 7, with the paper's score
official     the default branch of the published code, with the paper's score
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

LossName = Literal["separation", "quoted", "official"]


@dataclass(frozen=True)
class LossPreset:
    """Weights `beta` of NPD and `gamma` of NND, and whether the score that belongs to it has floors."""

    beta: float
    gamma: float
    floors: bool


LOSS_PRESETS: Mapping[str, LossPreset] = MappingProxyType(
    {
        "separation": LossPreset(0.0, 1.0, floors=True),
        "quoted": LossPreset(0.1, 0.05, floors=False),
        "official": LossPreset(0.1, 0.05, floors=False),
    }
)
