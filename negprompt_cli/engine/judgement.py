"""The judgement of single images: predicted class, its probability, an ID score, and the nearest negative prompt.

The class is the nearest positive prompt and its probability CLIP's own, softmax(s <P_i,f>) with the logit scale s; negatives
change neither. The ID score is one of the catalogue's that need prompts only, so that an artifact and an image are enough.

Leaves out: scores that compare with training images, with a list of words, or with patches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from negprompt_cli.engine.scores import SCORES, check_scores, find_score
from negprompt_cli.engine.scores.compute import over_blocks
from negprompt_cli.engine.scores.image_block import ImageBlock
from negprompt_cli.engine.scores.score_inputs import ScoreInputs
from negprompt_cli.errors import UsageError, did_you_mean

PROMPT_FIELDS = frozenset({"positives", "negatives", "zero_shot"})


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


@torch.no_grad()
def judge(features: Tensor, bank: ScoreInputs, score: str, *, temperature: float = 1.0) -> Judgements:
    """Judge B images; everything about an image comes from the same cosines.

    Args:
        features: (B, D) L2-normalised image features.
        bank: prompts to compare with.
        score: name of an ID score that the bank has everything for.
        temperature: tau of the softmax scores, on cosines.

    Raises:
        UsageError: an unknown score, or one that needs what the bank does not have.
        ValueError: shapes do not fit, or features are not L2-normalised.
    """
    check_scores([score], bank, has_local_features=False)
    record = find_score(score)
    functions: dict[str, Callable[[ImageBlock], Tensor]] = {
        "predictions": lambda block: block.predictions,
        "probabilities": lambda block: block.probability,
        "scores": record.load(),
    }
    groups = set(record.requires)
    if bank.negatives is not None:
        groups.add("negatives")
        functions["negatives"] = lambda block: block.nearest("negatives")
        functions["similarities"] = lambda block: block.highest("negatives")
    found = over_blocks(features, bank, functions, groups=groups, temperature=temperature)
    pairs = similarities = None
    if bank.negatives is not None:
        places, count = found["negatives"].to(torch.int64), bank.negatives.shape[1]
        pairs = torch.stack([places // count, places % count], dim=1).numpy()
        similarities = found["similarities"].double().numpy()
    return Judgements(
        found["predictions"].to(torch.int64).numpy(),
        found["probabilities"].double().numpy(),
        found["scores"].double().numpy(),
        pairs,
        similarities,
    )
