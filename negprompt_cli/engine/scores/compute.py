"""All scores asked for in one pass over the images, block by block.

Images x prompts never exist as a whole: a block of images is multiplied with each group of prompts once, and all scores
read the same cosines. The time is that of the matrix product and little more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock, ScoringContext
from negprompt_cli.engine.scores.options import ScoreOptions
from negprompt_cli.engine.scores.registry import Score, check_scores, find_score
from negprompt_cli.engine.scores.score_inputs import ScoreInputs, check_normalised

CPU_BLOCK_BYTES = 4 * 2**20
"""Cosines of a block that stay in a CPU's caches between the product and the exponentials."""

ACCELERATOR_BLOCK_BYTES = 256 * 2**20
"""Cosines of a block that keep an accelerator busy for longer than launching its kernels takes."""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores and predictions of N images.

    Attributes:
        scores: for each score asked for, (N,) float64, higher = more ID.
        predictions: (N,) int64 class of the nearest positive prompt.
    """

    scores: Mapping[str, npt.NDArray[np.float64]]
    predictions: npt.NDArray[np.int64]


@torch.no_grad()
def compute_scores(
    features: Tensor,
    bank: ScoreInputs,
    names: Sequence[str],
    *,
    temperature: float = 1.0,
    options: ScoreOptions | None = None,
    block_bytes: int | None = None,
    local_features: Tensor | None = None,
) -> ScoreTable:
    """Return the scores and predictions of all images.

    The computation runs on the device of the features, in float64 if they are, else in float32 with float64 sums (see
    `block`; a global setting that lowers the precision of float32 products, such as TF32, lowers that of the scores).

    Args:
        features: (N, D) L2-normalised image features; N may be 0.
        bank: prompts and training features to compare with.
        names: scores of the catalogue; predictions come with any, or none.
        temperature: tau of the softmax scores (negprompt, mcm, entropy, gl-mcm, neglabel), on cosines.
        options: constants of single scores; None is the defaults.
        block_bytes: memory for the cosines of one block; temporary copies come to about as much again. None is 4 MiB on
            a CPU, which fits its caches, and 256 MiB on an accelerator. Scores do not depend on it beyond rounding.
        local_features: (N, R, D) L2-normalised features of R patches, for gl-mcm.

    Raises:
        UsageError: an unknown score, or one that needs what the bank does not have.
        ValueError: shapes do not fit, features are not L2-normalised, or a number is out of range.
    """
    check_scores(names, bank, has_local_features=local_features is not None)
    dimension = bank.positives.shape[1]
    if features.ndim != 2 or features.shape[1] != dimension:
        raise ValueError(f"features must be (N, {dimension}) to fit the prompts, got {tuple(features.shape)}")
    if local_features is not None and (local_features.ndim != 3 or local_features[:, 0].shape != features.shape):
        raise ValueError(f"local_features must be ({len(features)}, R, {dimension}), got {tuple(local_features.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")

    records = [find_score(name) for name in dict.fromkeys(names)]
    functions = {record.name: record.load() for record in records}
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    setup = ScoringContext(bank.to(features.device, dtype), temperature, options or ScoreOptions())
    if block_bytes is None:
        block_bytes = CPU_BLOCK_BYTES if features.device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
    rows = max(1, block_bytes // (dtype.itemsize * _columns(records, bank, local_features)))

    parts: dict[str, list[Tensor]] = {name: [] for name in functions}
    predictions: list[Tensor] = []
    # Half precision products would be useless here, whatever the caller runs its networks in.
    with torch.autocast(features.device.type, enabled=False):
        for start in range(0, len(features), rows):
            part = features[start : start + rows].to(dtype)
            check_normalised(part, "features")
            local = None if local_features is None else local_features[start : start + rows].to(dtype)
            block = ImageBlock(setup, part, local)
            predictions.append(block.predictions)
            for name, function in functions.items():
                parts[name].append(function(block))
    return ScoreTable(
        scores={name: _joined(tensors).to(torch.float64).numpy() for name, tensors in parts.items()},
        predictions=_joined(predictions).to(torch.int64).numpy(),
    )


def _columns(records: Sequence[Score], bank: ScoreInputs, local_features: Tensor | None) -> int:
    """Return how many cosines per image the scores look at."""
    groups = {"positives"}.union(*(record.requires for record in records))
    columns = sum(len(bank.rows(group)) for group in groups - {"train_labels", "local_features"})
    if local_features is not None and "local_features" in groups:
        columns += local_features.shape[1] * len(bank.positives)
    return columns


def _joined(parts: list[Tensor]) -> Tensor:
    """Return the parts as one tensor on the CPU."""
    return torch.cat(parts).cpu() if parts else torch.empty(0)
