"""Gaussians fitted to the ID training features, for the Mahalanobis scores.

One Gaussian per class with a covariance shared by all classes (Lee et al., NeurIPS 2018), and one background Gaussian
over all samples regardless of class (Ren et al., 2021). With few shots there are fewer samples than dimensions, so each
covariance is shrunk towards a multiple of the identity that keeps its trace. Fitted on the CPU in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from negprompt_cli.errors import UsageError


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Class means and background mean, each kept after the whitening of its covariance.

    For a covariance S = L L' the whitening is W = L^-T: the squared Mahalanobis distance of x and m under S is the
    squared length of (x - m) W.

    Attributes:
        centre: (D,) mean of all training features.
        whitening: (D, D) whitening of the shared within-class covariance.
        class_means: (C, D) (class mean - centre) @ whitening.
        background_whitening: (D, D) whitening of the covariance about `centre`.
    """

    centre: Tensor
    whitening: Tensor
    class_means: Tensor
    background_whitening: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Gaussians":
        """Return the same on another device and in another type."""
        return Gaussians(
            self.centre.to(device, dtype),
            self.whitening.to(device, dtype),
            self.class_means.to(device, dtype),
            self.background_whitening.to(device, dtype),
        )

    def class_distance(self, features: Tensor) -> Tensor:
        """Return (B,): squared Mahalanobis distance of (B, D) features to the nearest class mean."""
        whitened = (features.to(self.centre.dtype) - self.centre) @ self.whitening
        nearest = (whitened.square().sum(1, keepdim=True) - 2 * whitened @ self.class_means.T).add_(
            self.class_means.square().sum(1)
        )
        return nearest.amin(dim=1)

    def background_distance(self, features: Tensor) -> Tensor:
        """Return (B,): squared Mahalanobis distance of (B, D) features to the background mean."""
        return ((features.to(self.centre.dtype) - self.centre) @ self.background_whitening).square().sum(1)


def fit_gaussians(features: Tensor, labels: Tensor, shrinkage: float | None) -> Gaussians:
    """Fit class Gaussians with a shared covariance, and the background Gaussian; on the CPU in float64.

    Args:
        features: (T, D) training features.
        labels: (T,) integer labels; a label without samples is no class.
        shrinkage: weight of the identity in [0, 1], or None for Ledoit and Wolf's.

    Raises:
        UsageError: a covariance is singular; the message says to shrink it.
    """
    x = features.detach().to("cpu", torch.float64)
    _, classes, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    means = torch.zeros(len(counts), x.shape[1], dtype=x.dtype).index_add_(0, classes, x) / counts[:, None]
    centre = x.mean(dim=0)
    whitening = _whitening(x - means[classes], shrinkage)
    return Gaussians(centre, whitening, (means - centre) @ whitening, _whitening(x - centre, shrinkage))


def _whitening(residuals: Tensor, shrinkage: float | None) -> Tensor:
    """Return (D, D): the whitening of the shrunk covariance of centred (T, D) residuals."""
    n, d = residuals.shape
    weight = _ledoit_wolf(residuals) if shrinkage is None else shrinkage
    covariance = residuals.T @ residuals / n
    identity = torch.eye(d, dtype=residuals.dtype)
    shrunk = (1 - weight) * covariance + weight * covariance.trace() / d * identity
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    # A singular matrix may pass by rounding, with pivots at the level of that rounding.
    pivots = factor.diagonal().square()
    if bool(failed) or bool(pivots.min() <= 1e-13 * pivots.max()):
        raise UsageError(
            f"The covariance of {n} training features in {d} dimensions is singular: raise shrinkage above {weight}."
        )
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.T


def _ledoit_wolf(residuals: Tensor) -> float:
    """Return the shrinkage weight of Ledoit and Wolf, "A well-conditioned estimator", 2004, as scikit-learn has it."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    return float(ledoit_wolf_shrinkage(residuals.numpy(), assume_centered=True))
