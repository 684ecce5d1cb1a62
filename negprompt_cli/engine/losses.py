"""The losses of both stages. Each term is a function, and each preset is a weighted sum of terms.

Notation (k classes, p negatives per class, B images): f (B, F) image features, P (k, F) positive and N (k, p, F)
negative prompt features, all L2-normalised; s is CLIP's logit scale. NIS, NPD and NND are the paper's names (Li et al.,
CVPR 2024, section 3.3): negative-image separation, negative-positive distance, negative-negative distance.

Presets for stage 2, L = NIS + beta * NPD + gamma * NND + contrast * L_class (`class_bond` has L_class):

    separation   NIS pushes every negative away from ID images, NPD pushes it away from the positive of its class, and NND
                 pushes the negatives of a class apart (by cosine)
    quoted       the paper's equations 4 to 7 as independent notes quote them: NIS has a uniform target over the negatives,
                 NPD attracts a negative to its positive
    official     the default branch of the published code: NIS is a multi-label soft margin over positives and negatives,
                 NND uses norms

No loss uses OOD images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from negprompt_cli.engine.class_bond import class_contrast
from negprompt_cli.loss_presets import LossName

Terms = dict[str, Tensor]


def positive_loss(f: Tensor, labels: Tensor, positives: Tensor, scale: float) -> Tensor:
    """Cross-entropy of softmax(s * f P^T) against ID labels (B,), a scalar: stage 1, CoOp's equation 3."""
    return F.cross_entropy(scale * f @ positives.T, labels)


def forced_loss(f: Tensor, labels: Tensor, positives: Tensor, anchors: Tensor, scale: float, copies: int) -> Tensor:
    """Cross-entropy of ID labels (B,) in softmax(s * f [P, A, ..., A]^T), with `copies` of the plain prompts A (k, F).

    FA ("Forced prompt learning of vision-language models for out-of-distribution detection", ICCV 2025); its code uses 3
    copies. A learned prompt must beat the plain prompt of its own class too, so it must learn more than the class name
    already expresses.
    """
    own = scale * f @ positives.T
    plain = (scale * f @ anchors.T).logsumexp(1) + math.log(copies)
    every = torch.logaddexp(own.logsumexp(1), plain)
    return (every - own.gather(1, labels[:, None])[:, 0]).mean()


def patch_entropy(patches: Tensor, labels: Tensor, positives: Tensor, scale: float) -> Tensor:
    """Minus the mean entropy of softmax(s * f_r P^T) over the patches that do not show their image's class.

    A patch shows the class if the class is among the 20 % of the classes nearest to the patch: Miyai et al., "LoCoOp:
    few-shot out-of-distribution detection via prompt learning", NeurIPS 2023, where it is 200 of 1000 classes. The choice
    of patches has no gradient.

    Args:
        patches: (B, R, F) L2-normalised features of R patches.
        labels: (B,) ID labels.
        positives: (k, F).
        scale: CLIP's logit scale.

    Returns:
        A scalar in [-log k, 0]; 0 if every patch shows its class.
    """
    logits = scale * patches @ positives.T
    classes = logits.shape[-1]
    own = logits.detach().gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
    background = (logits.detach() > own).sum(-1) >= max(1, round(0.2 * classes))
    log_p = logits.log_softmax(-1)
    negative_entropy = (log_p.exp() * log_p).sum(-1)
    return (negative_entropy * background).sum() / background.sum().clamp(min=1)


def anchor_distance(positives: Tensor, anchors: Tensor) -> Tensor:
    """Mean over classes of ||P_i - A_i||^2 with the plain prompts A (k, F), a scalar: keeps stage 1 close to zero-shot CLIP.

    Knowledge-guided CoOp (Yao, Zhang, Xu: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, CVPR
    2023, equation 3). Without this term a context learned on few classes overfits to them and harms all other names.
    """
    return (positives - anchors).square().sum(-1).mean()


def nis_separation(f: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Mean over images and negatives of softplus(s * <N_ij, f>): every negative is pushed away from every ID image."""
    return F.softplus(scale * f @ negatives.flatten(0, 1).T).mean()


def nis_uniform(f: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Cross-entropy of softmax(s * N f) over the k * p negatives against a uniform target (the paper's Eq. 4, as quoted)."""
    return -F.log_softmax(scale * f @ negatives.flatten(0, 1).T, dim=-1).mean()


def nis_soft_margin(f: Tensor, labels: Tensor, positives: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Multi-label soft margin over positives and negatives; both of the true class have target 1 (official code)."""
    classes, count, _ = negatives.shape
    logits = scale * torch.cat([f @ positives.T, f @ negatives.flatten(0, 1).T], dim=1)
    own = F.one_hot(labels, classes).to(logits)
    target = torch.cat([own, own.repeat_interleave(count, dim=1)], dim=1)
    loss: Tensor = F.multilabel_soft_margin_loss(logits, target)
    return loss


def own_similarity(positives: Tensor, negatives: Tensor) -> Tensor:
    """Mean over i, j of <N_ij, P_i>: how similar negatives are to the positive of their class, in [-1, 1]."""
    return torch.einsum("kpf,kf->kp", negatives, positives).mean()


def nnd_cosine(negatives: Tensor) -> Tensor:
    """Mean over i and j != l of <N_ij, N_il>: how similar the negatives of a class are, in [-1, 1]; 0 if p = 1."""
    classes, count, _ = negatives.shape
    if count == 1:
        return negatives.new_zeros(())
    # The squared norm of the sum is the sum over all pairs; the pairs j = l are subtracted.
    pairs = negatives.sum(1).square().sum(-1) - negatives.square().sum(-1).sum(1)
    return pairs.sum() / (classes * count * (count - 1))


def nnd_norm(negatives: Tensor) -> Tensor:
    """Mean over i of ||mean_j N_ij|| - 1, in [-1, 0]: the official code uses this in place of cosines."""
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


@dataclass(frozen=True)
class NegativeLoss:
    """Stage 2's loss: a preset and its weights.

    `beta` is the weight of NPD, `gamma` of NND, and `contrast` of the class term; each is at least 0.
    """

    name: LossName
    beta: float
    gamma: float
    contrast: float = 0.0

    @property
    def needs_labels(self) -> bool:
        """Whether the loss uses the images' labels; the classes of all images must then be among the prompts."""
        return self.name == "official"

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
        """Compute the scalars 'nis', 'npd', 'nnd', if `contrast` is above 0 also 'class', and their weighted sum 'loss'.

        Args:
            f: (B, F) image features.
            labels: (B,) ID labels.
            positives: (k, F).
            negatives: (k, p, F).
            scale: CLIP's logit scale.
            bound: (n, F) positives and (n, p, F) negatives for the class term; None uses `positives` and `negatives`.
        """
        terms = _TERMS[self.name](f, labels, positives, negatives, scale)
        loss = terms["nis"] + self.beta * terms["npd"] + self.gamma * terms["nnd"]
        if self.contrast:
            terms["class"] = class_contrast(*(bound or (positives, negatives)))
            loss = loss + self.contrast * terms["class"]
        return {"loss": loss, **terms}
