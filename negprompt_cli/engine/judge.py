"""Judge image features with torch: class, probability, score and nearest negative all come from the same cosines."""

from collections.abc import Callable

import torch
from torch import Tensor

from negprompt_cli.engine.judgement import Judgements
from negprompt_cli.engine.scores import ScoreOptions, check_scores, find_score
from negprompt_cli.engine.scores.compute import over_blocks
from negprompt_cli.engine.scores.image_block import ImageBlock
from negprompt_cli.engine.scores.score_inputs import ScoreInputs


@torch.no_grad()
def judge(
    features: Tensor, bank: ScoreInputs, score: str, *, temperature: float = 1.0, options: ScoreOptions | None = None
) -> Judgements:
    """Judge B images.

    Args:
        features: (B, D) L2-normalised image features.
        bank: prompts to compare with.
        score: name of an ID score; the bank must contain everything it needs.
        temperature: tau of the softmax scores, on cosines.
        options: constants of single scores; None is the defaults.

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
    found = over_blocks(features, bank, functions, groups=groups, temperature=temperature, options=options)
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
