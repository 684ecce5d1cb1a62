"""Mahalanobis distance to the nearest class, plain and relative to the background.

    mahalanobis           S(f) = -min_c d_c(f),            d_c(f) = (f-mu_c)' Sigma^-1 (f-mu_c)
    mahalanobis-relative  S(f) = -min_c (d_c(f) - d_0(f)),  d_0(f) = (f-mu_0)' Sigma_0^-1 (f-mu_0)

Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 2018
(on the last features, without their input perturbation); Ren et al., "A simple fix to Mahalanobis distance for
improving near-OOD detection", 2021. `gaussian` fits the Gaussians. `mahalanobis` is at most 0; `mahalanobis-relative` has
no bounds.
"""

from torch import Tensor

from negprompt_cli.engine.scores.image_block import ImageBlock


def mahalanobis(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    return -block.setup.gaussians.class_distance(block.features)


def mahalanobis_relative(block: ImageBlock) -> Tensor:
    """Return (B,) scores of the block's images."""
    gaussians = block.setup.gaussians
    return gaussians.background_distance(block.features) - gaussians.class_distance(block.features)
