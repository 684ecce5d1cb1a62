"""The training loop of both stages: SGD on context vectors against cached image features.

Because image features are fixed, a step costs the text tower's pass, not the batch. The loop is seeded through an explicit
generator, steps the learning rate once per batch (linear warm-up, then cosine to zero; SGDR, Loshchilov & Hutter, ICLR
2017) and gives gradients to the contexts only. The epoch kept is the last, or the one with the lowest objective on
held-out ID images; OOD images are never seen.

Leaves out: what is minimised (see `losses`), and files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from negprompt_cli.engine.losses import NegativeLoss, Terms, anchor_distance, positive_loss
from negprompt_cli.engine.prompt_encoder import PromptEncoder

Objective = Callable[[Tensor, Tensor, Tensor], Terms]
"""(image features (B, F), labels (B,), prompt features (C, K, F)) to named scalars, 'loss' among them."""


@dataclass(frozen=True)
class Schedule:
    """How to step.

    `warmup`: share of all steps, 0 to 1, over which the rate climbs linearly. `batch_size`: images per step.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    warmup: float = 0.0

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) out of `steps`."""
        warm = round(self.warmup * steps)
        if step < warm:
            return self.lr * (step + 1) / (warm + 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass(frozen=True)
class Features:
    """ID images of one training: features (N, F), L2-normalised, and labels (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Features":
        return Features(self.images[index], self.labels[index])


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to: mean loss terms, and the objective on held-out images where there are any.

    `accuracy`: share of the epoch's ID images classified right by the positives, in [0, 1].
    """

    epoch: int
    epochs: int
    terms: dict[str, float]
    accuracy: float
    lr: float
    held_out: float | None


@dataclass(frozen=True)
class Trained:
    """Contexts that were kept, the epoch they are from (1 to epochs), and every epoch's report."""

    contexts: Tensor
    epoch: int
    history: tuple[EpochReport, ...]


def train_positive(
    start: Tensor,
    encoder: PromptEncoder,
    data: Features,
    *,
    scale: float,
    schedule: Schedule,
    generator: torch.Generator,
    anchors: Tensor | None = None,
    anchor_weight: float = 0.0,
    keep: Literal["last", "best"] = "last",
    held_out: Features | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Trained:
    """Stage 1: learn the positive context by cross-entropy (CoOp), anchored to prompts of plain words (KgCoOp).

    Args:
        start: (1, M, D) or (1, K, M, D) initial context.
        encoder: encoder of the K class names.
        data: training images.
        scale: CLIP's logit scale.
        schedule: epochs, batches and rates.
        generator: CPU generator of the batch order.
        anchors: (K, F) features of plain word prompts, L2-normalised, or None.
        anchor_weight: weight of the distance to them, at least 0.
        keep: 'last' epoch or 'best' on `held_out`.
        held_out: ID images for `keep='best'`, and for reports.
        on_epoch: called after each epoch.
    """

    def objective(images: Tensor, labels: Tensor, prompts: Tensor) -> Terms:
        loss = positive_loss(images, labels, prompts[0], scale)
        if anchors is None:
            return {"loss": loss}
        distance = anchor_distance(prompts[0], anchors)
        return {"loss": loss + anchor_weight * distance, "cross-entropy": loss, "anchor": distance}

    return _train(start, encoder, data, objective, None, schedule, generator, keep, held_out, on_epoch)


def train_negative(
    start: Tensor,
    encoder: PromptEncoder,
    data: Features,
    *,
    positives: Tensor,
    loss: NegativeLoss,
    scale: float,
    schedule: Schedule,
    generator: torch.Generator,
    keep: Literal["last", "best"] = "last",
    held_out: Features | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Trained:
    """Stage 2: learn p negative contexts while the positive one stays frozen.

    Args:
        start: (p, M, D) or (p, K, M, D) initial contexts.
        positives: (K, F) features of the frozen positive prompts.
        loss: the preset with its weights.

    The other arguments are those of `train_positive`.
    """

    def objective(images: Tensor, labels: Tensor, prompts: Tensor) -> Terms:
        return loss(images, labels, positives, prompts.transpose(0, 1), scale)

    return _train(start, encoder, data, objective, positives, schedule, generator, keep, held_out, on_epoch)


def split_held_out(labels: Tensor, share: float, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split images for selection: indices (train, held out), the same share of each class, one at least to train on.

    Args:
        labels: (N,) ID labels.
        share: share of each class to hold out, in (0, 1).
        generator: a CPU generator.
    """
    train, held = [], []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten().cpu()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.append(members[:count])
        train.append(members[count:])
    return torch.cat(train).sort().values, torch.cat(held).sort().values


def _train(
    start: Tensor,
    encoder: PromptEncoder,
    data: Features,
    objective: Objective,
    positives: Tensor | None,
    schedule: Schedule,
    generator: torch.Generator,
    keep: Literal["last", "best"],
    held_out: Features | None,
    on_epoch: Callable[[EpochReport], None] | None,
) -> Trained:
    if keep == "best" and held_out is None:
        raise ValueError("keep='best' needs held-out ID images")
    contexts = start.detach().clone().requires_grad_()
    optimiser = torch.optim.SGD([contexts], lr=schedule.lr, momentum=schedule.momentum)
    per_epoch = math.ceil(len(data) / schedule.batch_size)
    steps = per_epoch * schedule.epochs
    best, best_value, best_epoch = contexts.detach().clone(), math.inf, 0
    history: list[EpochReport] = []
    for epoch in range(1, schedule.epochs + 1):
        # Kept on the device until the epoch ends: reading a number back would stop a GPU at every step.
        sums: dict[str, Tensor] = {}
        right = torch.zeros((), device=contexts.device)
        order = torch.randperm(len(data), generator=generator).to(data.images.device)
        rate = schedule.lr
        for number, chosen in enumerate(order.split(schedule.batch_size)):
            rate = schedule.rate((epoch - 1) * per_epoch + number, steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = data[chosen]
            terms, prompts = _step(contexts, encoder, batch, objective, optimiser)
            guess = batch.images @ (prompts[0] if positives is None else positives).T
            right += (guess.argmax(1) == batch.labels).sum()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() * len(batch)
        value: float | None = None
        if held_out is not None:
            with torch.no_grad():
                value = float(objective(held_out.images, held_out.labels, encoder(contexts))["loss"])
            if value < best_value:
                best, best_value, best_epoch = contexts.detach().clone(), value, epoch
        means = {name: float(total) / len(data) for name, total in sums.items()}
        history.append(EpochReport(epoch, schedule.epochs, means, float(right) / len(data), rate, value))
        if on_epoch:
            on_epoch(history[-1])
    if keep == "best":
        return Trained(best, best_epoch, tuple(history))
    return Trained(contexts.detach(), schedule.epochs, tuple(history))


def _step(
    contexts: Tensor, encoder: PromptEncoder, batch: Features, objective: Objective, optimiser: torch.optim.Optimizer
) -> tuple[Terms, Tensor]:
    """Take one step, again with smaller chunks where the device runs out of memory."""
    while True:
        optimiser.zero_grad(set_to_none=True)
        try:
            prompts = encoder(contexts)
            terms = objective(batch.images, batch.labels, prompts)
            terms["loss"].backward()
        except torch.OutOfMemoryError:
            encoder.shrink()
            continue
        optimiser.step()
        return terms, prompts.detach()
