"""The losses of both stages: each term a function, each preset a sum of terms.

Notation (k classes, p negatives per class, B images): f (B, F) image features, P (k, F) positive and N (k, p, F)
negative prompt features, all L2-normalised; s is CLIP's logit scale. NIS, NPD and NND are the paper's names (Li et al.,
CVPR 2024, section 3.3): negative-image separation, negative-positive distance, negative-negative distance.

Presets for stage 2, L = NIS + beta * NPD + gamma * NND + contrast * L_class, the last of which is in `class_bond`:

    separation   NIS pushes every negative away from ID images, NPD away from the own positive, NND apart on cosines
    quoted       as independent notes quote the paper's equations 4 to 7: uniform target over the negatives, NPD attractive
    official     the published code's default branch: multi-label soft margin over positives and negatives, NND on norms

Leaves out: anything that looks at OOD images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from negprompt_cli.engine.class_bond import class_contrast
from negprompt_cli.loss_presets import LossName

Terms = dict[str, Tensor]


def positive_loss(f: Tensor, labels: Tensor, positives: Tensor, scale: float) -> Tensor:
    """Cross-entropy of softmax(s * f P^T) against ID labels (B,): stage 1, CoOp's equation 3."""
    return F.cross_entropy(scale * f @ positives.T, labels)


def forced_loss(f: Tensor, labels: Tensor, positives: Tensor, anchors: Tensor, scale: float, copies: int) -> Tensor:
    """Cross-entropy of ID labels (B,) in softmax(s * f [P, A, ..., A]^T), A (k, F) the frozen prompts of plain words.

    FA ("Forced prompt learning of vision-language models for out-of-distribution detection", ICCV 2025), whose code has 3
    copies of A: an image's learned prompt must beat the plain prompt of its own class too, so it takes on more than the name
    says.
    """
    own = scale * f @ positives.T
    plain = (scale * f @ anchors.T).logsumexp(1) + math.log(copies)
    every = torch.logaddexp(own.logsumexp(1), plain)
    return (every - own.gather(1, labels[:, None])[:, 0]).mean()


def patch_entropy(patches: Tensor, labels: Tensor, positives: Tensor, scale: float) -> Tensor:
    """Minus the mean entropy of softmax(s * f_r P^T) over the patches that do not show their image's class.

    A patch does not show it if the class is not among the fifth of the classes that are nearest to the patch. Miyai et al.,
    "LoCoOp: few-shot out-of-distribution detection via prompt learning", NeurIPS 2023, with its 200 of 1000 classes. Which
    patches those are has no gradient.

    Args:
        patches: (B, R, F) L2-normalised features of R patches.
        labels: (B,) ID labels.
        positives: (k, F).
        scale: CLIP's logit scale.

    Returns:
        A scalar in [-log k, 0]; 0 where every patch shows its class.
    """
    logits = scale * patches @ positives.T
    classes = logits.shape[-1]
    own = logits.detach().gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
    foreign = (logits.detach() > own).sum(-1) >= max(1, round(0.2 * classes))
    log_p = logits.log_softmax(-1)
    negative_entropy = (log_p.exp() * log_p).sum(-1)
    return (negative_entropy * foreign).sum() / foreign.sum().clamp(min=1)


def anchor_distance(positives: Tensor, anchors: Tensor) -> Tensor:
    """Mean over classes of ||P_i - A_i||^2, A (k, F) the prompts of plain words: keeps stage 1 near what CLIP knows.

    Knowledge-guided CoOp (Yao, Zhang, Xu: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, CVPR
    2023, equation 3). Without it a context learned on few classes fits them and spoils all other names.
    """
    return (positives - anchors).square().sum(-1).mean()


def nis_separation(f: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Mean over images and negatives of softplus(s * <N_ij, f>): every negative is pushed away from every ID image."""
    return F.softplus(scale * f @ negatives.flatten(0, 1).T).mean()


def nis_uniform(f: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Cross-entropy of a uniform target against softmax over the k * p negatives of s * N f (paper's Eq. 4, quoted)."""
    return -F.log_softmax(scale * f @ negatives.flatten(0, 1).T, dim=-1).mean()


def nis_soft_margin(f: Tensor, labels: Tensor, positives: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Multi-label soft margin over positives and negatives; target 1 for both kinds of the true class (official code)."""
    classes, count, _ = negatives.shape
    logits = scale * torch.cat([f @ positives.T, f @ negatives.flatten(0, 1).T], dim=1)
    own = F.one_hot(labels, classes).to(logits)
    target = torch.cat([own, own.repeat_interleave(count, dim=1)], dim=1)
    loss: Tensor = F.multilabel_soft_margin_loss(logits, target)
    return loss


def own_similarity(positives: Tensor, negatives: Tensor) -> Tensor:
    """Mean over i, j of <N_ij, P_i>: how near negatives are to their own positive."""
    return torch.einsum("kpf,kf->kp", negatives, positives).mean()


def nnd_cosine(negatives: Tensor) -> Tensor:
    """Mean over i and j != l of <N_ij, N_il>: how alike the negatives of one class are; 0 when p = 1."""
    classes, count, _ = negatives.shape
    if count == 1:
        return negatives.new_zeros(())
    # The sum over all pairs is the squared norm of the sum; the diagonal is the squared norms.
    pairs = negatives.sum(1).square().sum(-1) - negatives.square().sum(-1).sum(1)
    return pairs.sum() / (classes * count * (count - 1))


def nnd_norm(negatives: Tensor) -> Tensor:
    """Mean over i of ||mean_j N_ij|| - 1: what the official code computes in place of cosines."""
    lengths: Tensor = torch.linalg.vector_norm(negatives.mean(1), dim=-1)
    return lengths.mean() - 1


def _separation(f: Tensor, labels: Tensor, positives: Tensor, negatives: Tensor, scale: float) -> Terms:
    return {
        "nis": nis_separation(f, negatives, scale),
        "npd": own_similarity(positives, negatives),
        "nnd": nnd_cosine(negatives),
    }


def _quoted(f: Tensor, labels: Tensor, positives: Tensor, negatives: Tensor, scale: float) -> Terms:
    return {
        "nis": nis_uniform(f, negatives, scale),
        "npd": -own_similarity(positives, negatives),
        "nnd": nnd_cosine(negatives),
    }


def _official(f: Tensor, labels: Tensor, positives: Tensor, negatives: Tensor, scale: float) -> Terms:
    return {
        "nis": nis_soft_margin(f, labels, positives, negatives, scale),
        "npd": own_similarity(positives, negatives),
        "nnd": nnd_norm(negatives),
    }


_TERMS: dict[LossName, Callable[[Tensor, Tensor, Tensor, Tensor, float], Terms]] = {
    "separation": _separation,
    "quoted": _quoted,
    "official": _official,
}


class LossSettings(Protocol):
    """Settings that name a loss and its weights."""

    @property
    def name(self) -> LossName:
        """The preset."""

    @property
    def beta(self) -> float:
        """Weight of NPD."""

    @property
    def gamma(self) -> float:
        """Weight of NND."""

    @property
    def contrast(self) -> float:
        """Weight of the class term."""


@dataclass(frozen=True)
class NegativeLoss:
    """Stage 2's loss: a preset with its weights.

    `beta` weighs NPD, `gamma` NND, `contrast` the term that binds negatives to their classes; each is at least 0.
    """

    name: LossName
    beta: float
    gamma: float
    contrast: float = 0.0

    @property
    def needs_labels(self) -> bool:
        """Whether the loss compares images with their own class, so that every class must be among the prompts."""
        return self.name == "official"

    @classmethod
    def of(cls, config: "LossSettings") -> "NegativeLoss":
        """The loss that settings ask for."""
        return cls(config.name, config.beta, config.gamma, config.contrast)

    def __call__(
        self,
        f: Tensor,
        labels: Tensor,
        positives: Tensor,
        negatives: Tensor,
        scale: float,
        *,
        bound: tuple[Tensor, Tensor] | None = None,
    ) -> Terms:
        """Compute the terms nis, npd, nnd, with a weight also class, and their weighted sum 'loss', each a scalar.

        Args:
            f: (B, F) image features.
            labels: (B,) ID labels.
            positives: (k, F).
            negatives: (k, p, F).
            scale: CLIP's logit scale.
            bound: (n, F) positives and (n, p, F) negatives of the names that the class term looks at; None for those above.
        """
        terms = _TERMS[self.name](f, labels, positives, negatives, scale)
        loss = terms["nis"] + self.beta * terms["npd"] + self.gamma * terms["nnd"]
        if self.contrast:
            terms["class"] = class_contrast(*(bound or (positives, negatives)))
            loss = loss + self.contrast * terms["class"]
        return {"loss": loss, **terms}
