"""The judgement of single images: predicted class, its probability, an ID score, and the nearest negative prompt.

The predicted class is that of the nearest positive prompt. Its probability is CLIP's own, softmax(s <P_i,f>) with the logit
scale s. Negatives change neither. The ID score must be one that needs prompts only, so that an artifact and an image are
enough to compute it. Scores that need training images, word lists or patches are refused.

Importing this module needs no torch: `engine.judge` computes judgements with torch, exported detectors with onnxruntime.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from negprompt_cli.engine.scores import SCORES, find_score
from negprompt_cli.errors import UsageError, did_you_mean

PROMPT_FIELDS = frozenset({"positives", "negatives", "zero_shot"})
INPUT, OUTPUTS, NEGATIVE_OUTPUTS = "pixels", ("probabilities", "score", "is_ood"), ("negative", "negative_similarity")
"""Names of the input and the outputs of exported files. The second group of outputs exists with negative prompts only.
`negative` is an index over all classes: negative n of class i has index i * p + n, with p negatives per class."""


@dataclass(frozen=True, eq=False)
class Judgements:
    """The judgement of B images.

    Attributes:
        predictions: (B,) int64 class of the nearest positive prompt.
        probabilities: (B,) float64 probability of that class, in (0, 1].
        scores: (B,) float64 ID scores, higher = more ID.
        negatives: (B, 2) int64 class and number of the nearest negative prompt, or None without negatives.
        similarities: (B,) float64 cosine with that prompt, or None without negatives.
    """

    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    negatives: npt.NDArray[np.int64] | None
    similarities: npt.NDArray[np.float64] | None


def prompt_scores() -> tuple[str, ...]:
    """Return the names of the scores that need nothing but prompts."""
    return tuple(name for name, score in SCORES.items() if PROMPT_FIELDS.issuperset(score.requires))


def check_prompt_score(name: str) -> None:
    """Check that a score can be computed from an artifact and an image alone.

    Raises:
        UsageError: the score is unknown, or it needs more than prompts.
    """
    find_score(name)
    if name not in prompt_scores():
        raise UsageError(
            f"Score '{name}' needs more than prompts and an image.{did_you_mean('', prompt_scores())}",
            remedy="all-scores",
        )
