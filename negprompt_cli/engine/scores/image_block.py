"""A block of images and the sums over prompts that its scores share.

Prompt scores use two summaries of the cosines <w_i, f> of an image with a group of prompts: the highest cosine, and
log sum_i exp(b <w_i, f>) at an inverse temperature b. The first score that needs a summary computes it; the others reuse
it.

Numerics: cosines are float32 products with an error of about 5e-8. The exponents are b * (cosine - highest cosine), so no
temperature causes an overflow. Exponentials are summed in float64: at tau = 1 over 1000 classes MCM differs between images
by a few per cent of its value, and a float32 sum would create ties. The summaries and all later steps are float64.
Compared with float64 throughout, the relative error of scores is about b * 1e-7, and AUROC differs by less than 1e-6.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import Tensor

from negprompt_cli.engine.scores.gaussian import Gaussians, fit_gaussians
from negprompt_cli.engine.scores.id_statistics import ClassView
from negprompt_cli.engine.scores.options import ScoreOptions
from negprompt_cli.engine.scores.row_sums import row_sums
from negprompt_cli.engine.scores.score_inputs import ScoreInputs

Made = TypeVar("Made")


class ScoringContext:
    """The inputs and options of one call, with results that all its blocks share.

    Attributes:
        bank: prompts and training features, on the device and in the type of the computation.
        temperature: tau of the softmax scores, on cosines.
        options: constants of single scores.
        exact: the type of sums and scores: float64, or float32 on devices without float64 (MPS).
    """

    def __init__(self, bank: ScoreInputs, temperature: float, options: ScoreOptions) -> None:
        self.bank = bank
        self.temperature = temperature
        self.options = options
        self.exact = exact_dtype(bank.positives.device)
        self._made: dict[str, object] = {}

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Return `make()`, computed at the first call with this name and cached for later blocks."""
        if name not in self._made:
            self._made[name] = make()
        return cast(Made, self._made[name])

    @cached_property
    def class_view(self) -> ClassView:
        """The classes as seen from the typical ID image (`IdStatistics.view`)."""
        if self.bank.id_statistics is None:
            raise ValueError("the view of the classes needs id_statistics")
        return self.bank.id_statistics.view(self.bank.positives)

    @cached_property
    def mean_negative(self) -> Tensor:
        """(D,) the mean of the negatives."""
        return self.bank.rows("negatives").mean(0)

    @cached_property
    def gaussians(self) -> Gaussians:
        """The Gaussians of the training features, fitted at the first use."""
        features, labels = self.bank.train_features, self.bank.train_labels
        if features is None or labels is None:
            raise ValueError("Gaussians need train_features and train_labels")
        return fit_gaussians(features, labels, self.options.shrinkage).to(features.device, self.exact)


class ImageBlock:
    """B images: their features and, computed on demand, their cosines with each group of prompts.

    Attributes:
        setup: the context that all blocks of a call share.
        features: (B, D) L2-normalised image features.
        local_features: (B, R, D) L2-normalised features of R patches, or None.
    """

    def __init__(self, setup: ScoringContext, features: Tensor, local_features: Tensor | None) -> None:
        self.setup = setup
        self.features = features
        self.local_features = local_features
        self._cosines: dict[str, Tensor] = {}
        self._highest: dict[str, Tensor] = {}
        self._nearest: dict[str, Tensor] = {}
        self._sums: dict[tuple[str, float], Tensor] = {}

    def cosines(self, group: str) -> Tensor:
        """Return (B, rows): the cosines with each prompt of a group of the bank. The tensor is cached; do not modify it."""
        if group not in self._cosines:
            self._cosines[group] = self.features @ self.setup.bank.rows(group).T
        return self._cosines[group]

    def nearest(self, group: str) -> Tensor:
        """Return (B,) int64: the index of the prompt with the highest cosine in the group."""
        if group not in self._nearest:
            self._highest[group], self._nearest[group] = self.cosines(group).max(dim=1)
        return self._nearest[group]

    @property
    def predictions(self) -> Tensor:
        """(B,) int64: the class of the nearest positive prompt; negatives do not affect it."""
        return self.nearest("positives")

    @property
    def probability(self) -> Tensor:
        """(B,) of type `exact`: CLIP's probability of the predicted class, softmax over the positives at the logit scale."""
        scale = self.setup.bank.logit_scale
        highest = self.highest("positives").to(self.setup.exact)
        return (scale * highest - self.log_sum_exp("positives", scale)).exp()

    def highest(self, group: str) -> Tensor:
        """Return (B,): the highest cosine with a prompt of the group."""
        if group not in self._highest:
            self._highest[group] = self.cosines(group).amax(dim=1)
        return self._highest[group]

    def log_sum_exp(self, group: str, inverse_temperature: float) -> Tensor:
        """Return (B,) of type `exact`: log sum over the group's prompts of exp(inverse_temperature * cosine)."""
        key = group, inverse_temperature
        if key not in self._sums:
            self._sums[key] = log_sum_exp(
                self.cosines(group), inverse_temperature, highest=self.highest(group), exact=self.setup.exact
            )
        return self._sums[key]

    def log_max_softmax(self, group: str) -> Tensor:
        """Return (B,) of type `exact`: the log of the highest softmax probability over the group at the temperature."""
        inverse = 1 / self.setup.temperature
        return inverse * self.highest(group).to(self.setup.exact) - self.log_sum_exp(group, inverse)


def log_sum_exp(cosines: Tensor, inverse_temperature: float, *, highest: Tensor, exact: torch.dtype) -> Tensor:
    """Return (...) in type `exact`: log sum over the last axis of exp(inverse_temperature * cosines).

    Args:
        cosines: (..., n); they are not modified.
        inverse_temperature: b > 0.
        highest: (...) their maximum over the last axis.
        exact: type of the sum and the result.
    """
    terms = torch.sub(cosines, highest.unsqueeze(-1)).mul_(inverse_temperature).exp_()
    return row_sums(terms, exact=exact).log_().add_(highest.to(exact), alpha=inverse_temperature)


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the widest floating point type the device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64
