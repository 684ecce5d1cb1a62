"""The presets of stage 2's loss, by name; `engine/losses` has their terms. Imports no torch.

separation   the package's own, with the default score
quoted       as independent notes quote the paper's equations 4 to 7, with the paper's score
official     the default branch of the published code, with the paper's score
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

LossName = Literal["separation", "quoted", "official"]
ScoreForm = Literal["standardised", "paper"]
"""Forms of the score negprompt: statistics in units of ID images, or the paper's formula (`engine/scores/mcm_extended`)."""


@dataclass(frozen=True)
class LossPreset:
    """Weights `beta` of NPD, `gamma` of NND and `contrast` of the class term, and the form of its score."""

    beta: float
    gamma: float
    contrast: float
    score: ScoreForm


LOSS_PRESETS: Mapping[str, LossPreset] = MappingProxyType(
    {
        "separation": LossPreset(0.0, 1.0, 1.0, score="standardised"),
        "quoted": LossPreset(0.1, 0.05, 0.0, score="paper"),
        "official": LossPreset(0.1, 0.05, 0.0, score="paper"),
    }
)
