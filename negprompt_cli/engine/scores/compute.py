"""Compute all requested scores in one pass over the images, block by block.

The full matrix of images x prompts never exists. Each block of images is multiplied with each group of prompts once, and
all scores read the same cosines. Computing scores takes little longer than the matrix product alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock, ScoringContext
from negprompt_cli.engine.scores.options import ScoreOptions
from negprompt_cli.engine.scores.registry import check_scores, find_score
from negprompt_cli.engine.scores.score_inputs import ScoreInputs, check_normalised

CPU_BLOCK_BYTES = 4 * 2**20
"""Size of a block's cosines on a CPU: they stay in its caches between the product and the exponentials."""

ACCELERATOR_BLOCK_BYTES = 256 * 2**20
"""Size of a block's cosines on an accelerator: computing them takes longer than launching kernels."""


PREDICTIONS = "predictions"


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores and predictions of N images.

    Attributes:
        scores: for each requested score, (N,) float64, higher = more ID.
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

    The computation runs on the device of the features. Float64 features are processed in float64, all others in float32
    with float64 sums (see `image_block`). A global setting that lowers the precision of float32 products, such as TF32,
    also lowers the precision of the scores.

    Args:
        features: (N, D) L2-normalised image features; N may be 0.
        bank: prompts and training features to compare with.
        names: names of scores; predictions are always computed, even with no name.
        temperature: tau of the softmax scores (negprompt, mcm, entropy, gl-mcm), on cosines.
        options: constants of single scores; None uses the defaults.
        block_bytes: bytes for the cosines of one block; temporary copies take about as much again. None uses 4 MiB on a
            CPU, which fits its caches, and 256 MiB on an accelerator. It changes scores by rounding only.
        local_features: (N, R, D) L2-normalised features of R patches, for gl-mcm.

    Raises:
        UsageError: an unknown score, or one that needs what the bank does not have.
        ValueError: shapes do not fit, features are not L2-normalised, or a number is out of range.
    """
    check_scores(names, bank, has_local_features=local_features is not None)
    records = [find_score(name) for name in dict.fromkeys(names)]
    functions = {record.name: record.load() for record in records}
    found = over_blocks(
        features,
        bank,
        {**functions, PREDICTIONS: lambda block: block.predictions},
        groups={group for record in records for group in record.requires},
        temperature=temperature,
        options=options,
        block_bytes=block_bytes,
        local_features=local_features,
    )
    predictions = found.pop(PREDICTIONS)
    return ScoreTable(
        scores={name: values.to(torch.float64).numpy() for name, values in found.items()},
        predictions=predictions.to(torch.int64).numpy(),
    )


@torch.no_grad()
def over_blocks(
    features: Tensor,
    bank: ScoreInputs,
    functions: Mapping[str, Callable[[ImageBlock], Tensor]],
    *,
    groups: set[str],
    temperature: float = 1.0,
    options: ScoreOptions | None = None,
    block_bytes: int | None = None,
    local_features: Tensor | None = None,
) -> dict[str, Tensor]:
    """Apply functions to all blocks of images and join their results; all functions read the same cosines of a block.

    Args:
        functions: functions of a block of B images that return (B,) or (B, ...).
        groups: fields of the bank that the functions use, besides the positives.

    The other arguments and the ValueErrors are those of `compute_scores`.

    Returns:
        For each function (N,) or (N, ...), on the CPU.
    """
    dimension = bank.positives.shape[1]
    if features.ndim != 2 or features.shape[1] != dimension:
        raise ValueError(f"features must be (N, {dimension}) to fit the prompts, got {tuple(features.shape)}")
    if local_features is not None and (local_features.ndim != 3 or local_features[:, 0].shape != features.shape):
        raise ValueError(f"local_features must be ({len(features)}, R, {dimension}), got {tuple(local_features.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")

    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    setup = ScoringContext(bank.to(features.device, dtype), temperature, options or ScoreOptions())
    if block_bytes is None:
        block_bytes = CPU_BLOCK_BYTES if features.device.type == "cpu" else ACCELERATOR_BLOCK_BYTES
    rows = max(1, block_bytes // (dtype.itemsize * _columns(groups, bank, local_features)))

    parts: dict[str, list[Tensor]] = {name: [] for name in functions}
    # Half precision is too coarse for these products, even if the caller's networks use it.
    with torch.autocast(features.device.type, enabled=False):
        for start in range(0, len(features), rows):
            part = features[start : start + rows].to(dtype)
            check_normalised(part, "features")
            local = None if local_features is None else local_features[start : start + rows].to(dtype)
            block = ImageBlock(setup, part, local)
            for name, function in functions.items():
                parts[name].append(function(block))
    return {name: torch.cat(tensors).cpu() if tensors else torch.empty(0) for name, tensors in parts.items()}


def _columns(groups: set[str], bank: ScoreInputs, local_features: Tensor | None) -> int:
    """Return the number of cosines per image with all groups of prompts and training images."""
    columns = sum(
        len(bank.rows(group)) for group in {"positives", *groups} - {"train_labels", "local_features", "pair_features"}
    )
    if local_features is not None and "local_features" in groups:
        columns += local_features.shape[1] * len(bank.positives)
    return columns
