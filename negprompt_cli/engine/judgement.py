"""What is said about single images: predicted class, its probability, an ID score, and the nearest negative prompt.

The class is the nearest positive prompt and its probability CLIP's own, softmax(s <P_i,f>) with the logit scale s; negatives
change neither. The ID score is one of the catalogue's that need prompts only, so that an artifact and an image are enough.
Importing this needs no torch: `engine.judge` computes it with torch, an exported detector with another runtime.

Leaves out: scores that compare with training images, with a list of words, or with patches.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negprompt_cli.engine.scores import SCORES, find_score
from negprompt_cli.errors import UsageError, did_you_mean

PROMPT_FIELDS = frozenset({"positives", "negatives", "zero_shot"})
INPUT, OUTPUTS, NEGATIVE_OUTPUTS = "pixels", ("probabilities", "score", "is_ood"), ("negative", "negative_similarity")
"""Names of the input and the outputs of exported files; those of the second group are there with negative prompts.
`negative` counts over all classes: number n of class i is i * p + n, with p negatives per class."""


@dataclass(frozen=True, eq=False)
class Judgements:
    """The judgement of B images.

    Attributes:
        predictions: (B,) int64 class of the nearest positive prompt.
        probabilities: (B,) float64 probability of that class, in (0, 1].
        scores: (B,) float64 ID scores, higher = more ID.
        negatives: (B, 2) int64 class and number of the nearest negative prompt, or None without negatives.
        similarities: (B,) float64 cosine with it, or None.
    """

    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    negatives: npt.NDArray[np.int64] | None
    similarities: npt.NDArray[np.float64] | None


def prompt_scores() -> tuple[str, ...]:
    """Names of the scores that need prompts and nothing else."""
    return tuple(name for name, score in SCORES.items() if PROMPT_FIELDS.issuperset(score.requires))


def check_prompt_score(name: str) -> None:
    """Refuse a score that an artifact and an image are not enough for.

    Raises:
        UsageError: an unknown score, or one that needs more.
    """
    find_score(name)
    if name not in prompt_scores():
        raise UsageError(
            f"Score '{name}' needs more than prompts and an image.{did_you_mean('', prompt_scores())}",
            remedy="all-scores",
        )
