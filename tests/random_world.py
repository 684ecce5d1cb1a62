"""Seeded random tensors."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(*shape: int, seed: int) -> Tensor:
    """Vectors of length 1 along the last dimension."""
    return normalize(torch.randn(*shape, generator=seeded(seed)), dim=-1)
