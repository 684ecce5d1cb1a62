"""The presets of both stages' losses, by name; `engine/losses` has their terms. Imports no torch.

Stage 1, whose terms are cross-entropy, the distance from plain word prompts, copies of these in the denominator, and the
entropy of patches that do not show the class:

kgcoop       the package's own: anchored to the word prompts (KgCoOp, CVPR 2023)
coop         cross-entropy alone (CoOp, IJCV 2022), as in the paper
fa           frozen word prompts in the denominator, which the learned ones must beat (FA, ICCV 2025)
locoop       patches that do not show the class are to be like no class (LoCoOp, NeurIPS 2023); for vision transformers

Stage 2:

separation   the package's own, with the default score
quoted       as independent notes quote the paper's equations 4 to 7, with the paper's score
official     the default branch of the published code, with the paper's score
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PositiveLossName = Literal["kgcoop", "coop", "fa", "locoop"]
LossName = Literal["separation", "quoted", "official"]
ScoreForm = Literal["standardised", "paper"]
"""Forms of the score negprompt: statistics in units of ID images, or the paper's formula (`engine/scores/mcm_extended`)."""


@dataclass(frozen=True)
class PositivePreset:
    """Weights of stage 1's terms.

    `anchor`: of the distance from the word prompts. `forced`: how often these are in the denominator. `patches`: of the
    patches' entropy.
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
