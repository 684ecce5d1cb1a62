"""The loss presets of both stages, by name; `engine/losses` has their terms. Imports no torch.

Stage 1. Each preset is the cross-entropy, and all but coop add a term:

kgcoop       the default: adds the distance of the learned prompts from the plain word prompts (KgCoOp, CVPR 2023)
coop         the cross-entropy alone (CoOp, IJCV 2022), as in the paper
fa           adds frozen word prompts to the denominator, which the learned prompts must beat (FA, ICCV 2025)
locoop       adds the entropy of patches that do not show the class (LoCoOp, NeurIPS 2023); needs a vision transformer

Stage 2:

separation   the default, with the default score
quoted       the paper's equations 4 to 7 as independent notes quote them, with the paper's score
official     the loss of the default branch of the published code, with the paper's score
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PositiveLossName = Literal["kgcoop", "coop", "fa", "locoop"]
LossName = Literal["separation", "quoted", "official"]
ScoreForm = Literal["standardised", "paper"]
"""Forms of the score negprompt: standardised by ID images, or the paper's formula (`engine/scores/mcm_extended`)."""


@dataclass(frozen=True)
class PositivePreset:
    """Weights of stage 1's terms.

    `anchor`: weight of the distance from the word prompts. `forced`: how often each word prompt is in the denominator.
    `patches`: weight of the patches' entropy.
    """

    anchor: float
    forced: int
    patches: float


POSITIVE_PRESETS: Mapping[str, PositivePreset] = MappingProxyType(
    {
        "kgcoop": PositivePreset(anchor=0.3, forced=0, patches=0.0),
        "coop": PositivePreset(anchor=0.0, forced=0, patches=0.0),
        "fa": PositivePreset(anchor=0.0, forced=3, patches=0.0),
        "locoop": PositivePreset(anchor=0.0, forced=0, patches=0.25),
    }
)


@dataclass(frozen=True)
class LossPreset:
    """Weights `beta` of NPD, `gamma` of NND and `contrast` of the class term, and the form of its score."""

    beta: float
    gamma: float
    contrast: float
    score: ScoreForm


LOSS_PRESETS: Mapping[str, LossPreset] = MappingProxyType(
    {
        "separation": LossPreset(0.0, 1.0, 3.0, score="standardised"),
        "quoted": LossPreset(0.1, 0.05, 0.0, score="paper"),
        "official": LossPreset(0.1, 0.05, 0.0, score="paper"),
    }
)
