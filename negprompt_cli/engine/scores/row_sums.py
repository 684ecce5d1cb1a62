"""Sums over the prompts of each image: of all terms, or of the highest cosines.

On a CPU these sums would take as long as the matrix product (262 images, 1,000 classes, 512 dimensions): torch copies to
float64 before it sums in float64, and its topk takes five times as long as numpy's partition. numpy uses one thread only, so
with many threads torch is used.
"""

import numpy as np
import torch
from torch import Tensor

MOST_THREADS = 4
"""Up to this number of torch threads, a single numpy thread is faster."""


def row_sums(terms: Tensor, *, exact: torch.dtype) -> Tensor:
    """Return (...) in type `exact`: the sums over the last axis.

    Args:
        terms: (..., n).
        exact: type of the sums.
    """
    if _by_numpy(terms) and exact is torch.float64:
        return torch.from_numpy(np.asarray(np.sum(terms.numpy(), axis=-1, dtype=np.float64)))
    return terms.sum(dim=-1, dtype=exact)


def sum_of_highest(cosines: Tensor, count: int, *, exact: torch.dtype) -> Tensor:
    """Return (B,) in type `exact`: the sum of the `count` highest of each row.

    Args:
        cosines: (B, K), finite.
        count: 1 to K.
        exact: type of the sums.
    """
    if _by_numpy(cosines):
        place = cosines.shape[1] - count
        return torch.from_numpy(np.partition(cosines.numpy(), place, axis=1)[:, place:]).sum(dim=1, dtype=exact)
    # Only the sum is needed, so the cosines need not be sorted.
    return cosines.topk(count, dim=1, sorted=False).values.sum(dim=1, dtype=exact)


def _by_numpy(tensor: Tensor) -> bool:
    # Tensors that are traced for an export or differentiated need torch's own functions.
    own = torch.compiler.is_compiling() or tensor.requires_grad
    return tensor.device.type == "cpu" and not own and torch.get_num_threads() <= MOST_THREADS
