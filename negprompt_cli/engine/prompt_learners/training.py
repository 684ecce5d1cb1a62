"""The training loop of both stages: SGD on context vectors against cached image features.

Because image features are fixed, a step costs the text tower's pass, not the batch. The loop is seeded through an explicit
generator, steps the learning rate once per batch (linear warm-up, then cosine to zero; SGDR, Loshchilov & Hutter, ICLR
2017) and gives gradients to the contexts only. The epoch kept is the last, or the one with the lowest objective on
held-out ID images; OOD images are never seen.

Where the classes are too many for a step, each step sees some of them (POMP's local contrast, without its correction: Ren
et al., Prompt Pre-Training with Twenty-Thousand Classes, NeurIPS 2023); `class_batches` says which.

A training can be taken up after any epoch: `State` holds all that the next one depends on, and what comes out is the same
bit for bit as without the break wherever the device computes the same twice.

Leaves out: what is minimised (see `losses`), and files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from negprompt_cli.engine.losses import NegativeLoss, Terms, anchor_distance, positive_loss
from negprompt_cli.engine.prompt_learners.prompt_encoder import Encoder

Objective = Callable[["Features", Tensor, Tensor | slice], Terms]
"""(images with labels among n classes, prompt features (C, n, F), which classes these are) to named scalars, 'loss' among
them."""

ALL = slice(None)
"""Every class, in order."""


@dataclass(frozen=True)
class Schedule:
    """How to step.

    `warmup`: share of all steps, 0 to 1, over which the rate climbs linearly. `batch_size`: images per step.
    `classes_per_step`: prompts encoded per step and context (see `class_batches`); 0, or at least K, for all.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    warmup: float = 0.0
    classes_per_step: int = 0

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

    `terms` are over the classes of each step. `accuracy`: share of the epoch's ID images classified right, among all K
    classes, by the positives, in [0, 1]: those of each image's step, but where stage 1's steps see some of the classes,
    those at the end of the epoch. `held_out` is over all K classes.
    """

    epoch: int
    epochs: int
    terms: dict[str, float]
    accuracy: float
    lr: float
    held_out: float | None


@dataclass(frozen=True)
class State:
    """Where a training stands after len(history) epochs.

    `contexts` as they are, `best` as they were after epoch `best_epoch` (0: the start), both shaped as the start;
    `momentum`: the optimiser's running sum of gradients, of the same shape, None for SGD without momentum. `generator`: the
    state of the generator of the batch order, uint8. On the device of the training unless they come from elsewhere.
    """

    contexts: Tensor
    momentum: Tensor | None
    best: Tensor
    best_epoch: int
    generator: Tensor
    history: tuple[EpochReport, ...]


@dataclass(frozen=True)
class Trained:
    """Contexts that were kept, the epoch they are from (1 to epochs), and every epoch's report."""

    contexts: Tensor
    epoch: int
    history: tuple[EpochReport, ...]


def train_positive(
    start: Tensor,
    encoder: Encoder,
    data: Features,
    *,
    scale: float,
    schedule: Schedule,
    generator: torch.Generator,
    anchors: Tensor | None = None,
    anchor_weight: float = 0.0,
    keep: Literal["last", "best"] = "last",
    held_out: Features | None = None,
    state: State | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_state: Callable[[State], None] | None = None,
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
        state: where an earlier training with the same arguments stopped; it goes on from there.
        on_epoch: called after each epoch.
        on_state: called after each epoch, before `on_epoch`, with all that the next ones depend on.
    """

    def objective(batch: Features, prompts: Tensor, classes: Tensor | slice) -> Terms:
        loss = positive_loss(batch.images, batch.labels, prompts[0], scale)
        if anchors is None:
            return {"loss": loss}
        distance = anchor_distance(prompts[0], anchors[classes])
        return {"loss": loss + anchor_weight * distance, "cross-entropy": loss, "anchor": distance}

    return _train(start, encoder, data, objective, None, schedule, generator, keep, held_out, state, on_epoch, on_state)


def train_negative(
    start: Tensor,
    encoder: Encoder,
    data: Features,
    *,
    positives: Tensor,
    loss: NegativeLoss,
    scale: float,
    schedule: Schedule,
    generator: torch.Generator,
    keep: Literal["last", "best"] = "last",
    held_out: Features | None = None,
    state: State | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_state: Callable[[State], None] | None = None,
) -> Trained:
    """Stage 2: learn p negative contexts while the positive one stays frozen.

    Args:
        start: (p, M, D) or (p, K, M, D) initial contexts.
        positives: (K, F) features of the frozen positive prompts.
        loss: the preset with its weights.

    The other arguments are those of `train_positive`.
    """

    def objective(batch: Features, prompts: Tensor, classes: Tensor | slice) -> Terms:
        return loss(batch.images, batch.labels, positives[classes], prompts.transpose(0, 1), scale)

    return _train(
        start, encoder, data, objective, positives, schedule, generator, keep, held_out, state, on_epoch, on_state
    )


def class_batches(
    labels: Tensor, classes: int, *, per_step: int, batch_size: int, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Batches of one epoch whose steps see `per_step` of K classes each.

    The classes are dealt at random into ceil(K / per_step) groups of about one size. A batch holds images of one group: a
    batch of any images would soon hold more classes than a step may see. Its prompts are the group's and those of other
    classes drawn at random up to `per_step`, so that the true class is always in. Every image comes once per epoch, and the
    batches come in random order.

    Args:
        labels: (N,) ID labels, on the CPU.
        classes: K, more than `per_step`.
        per_step: classes of a step, at least 1.
        batch_size: most images of a batch.
        generator: a CPU generator.

    Returns:
        Pairs of indices into the images (b,) and classes (per_step,), ascending.
    """
    groups = torch.randperm(classes, generator=generator).tensor_split(math.ceil(classes / per_step))
    group_of = torch.empty(classes, dtype=torch.long)
    for number, group in enumerate(groups):
        group_of[group] = number
    order = torch.randperm(len(labels), generator=generator)
    owners = group_of[labels[order]]
    batches = []
    for number, group in enumerate(groups):
        members = order[owners == number]
        for chosen in members.split(batch_size) if len(members) else ():
            pool = torch.randperm(classes, generator=generator)
            others = pool[group_of[pool] != number][: per_step - len(group)]
            batches.append((chosen, torch.cat([group, others]).sort().values))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


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
    encoder: Encoder,
    data: Features,
    objective: Objective,
    positives: Tensor | None,
    schedule: Schedule,
    generator: torch.Generator,
    keep: Literal["last", "best"],
    held_out: Features | None,
    state: State | None,
    on_epoch: Callable[[EpochReport], None] | None,
    on_state: Callable[[State], None] | None,
) -> Trained:
    if keep == "best" and held_out is None:
        raise ValueError("keep='best' needs held-out ID images")
    contexts = (state.contexts if state else start).detach().to(start, copy=True).requires_grad_()
    optimiser = torch.optim.SGD([contexts], lr=schedule.lr, momentum=schedule.momentum)
    best, best_value, best_epoch = contexts.detach().clone(), math.inf, 0
    history: list[EpochReport] = []
    if state:
        best, best_epoch, history = state.best.to(start), state.best_epoch, list(state.history)
        held = history[best_epoch - 1].held_out if best_epoch else None
        best_value = math.inf if held is None else held
        if state.momentum is not None:
            optimiser.state[contexts]["momentum_buffer"] = state.momentum.to(start, copy=True)
        generator.set_state(state.generator.cpu())
    # With a part of the classes a step cannot tell what stage 1's prompts get right among all.
    blind = positives is None and _samples(schedule, encoder)
    for epoch in range(len(history) + 1, schedule.epochs + 1):
        # Kept on the device until the epoch ends: reading a number back would stop a GPU at every step.
        sums: dict[str, Tensor] = {}
        right = torch.zeros((), device=contexts.device)
        rate = schedule.lr
        batches = _batches(data, encoder, schedule, generator)
        for number, (chosen, classes) in enumerate(batches):
            # Epochs of sampled classes may differ in their number of steps; each takes up the same share of the schedule.
            rate = schedule.rate((epoch - 1) * len(batches) + number, len(batches) * schedule.epochs)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = data[chosen]
            terms, prompts = _step(contexts, encoder, batch, classes, objective, optimiser)
            if not blind:
                right += _right(batch, prompts[0] if positives is None else positives)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() * len(batch)
        value: float | None = None
        if blind or held_out is not None:
            with torch.no_grad():
                prompts = encoder(contexts)
                for chosen, _ in batches if blind else ():
                    right += _right(data[chosen], prompts[0])
                if held_out is not None:
                    value = float(objective(held_out, prompts, ALL)["loss"])
                    if value < best_value:
                        best, best_value, best_epoch = contexts.detach().clone(), value, epoch
        means = {name: float(total) / len(data) for name, total in sums.items()}
        history.append(EpochReport(epoch, schedule.epochs, means, float(right) / len(data), rate, value))
        if on_state:
            on_state(_state(contexts, optimiser, best, best_epoch, generator, history))
        if on_epoch:
            on_epoch(history[-1])
    if keep == "best":
        return Trained(best, best_epoch, tuple(history))
    return Trained(contexts.detach(), schedule.epochs, tuple(history))


def _samples(schedule: Schedule, encoder: Encoder) -> bool:
    """Whether steps see some of the classes only."""
    return 0 < schedule.classes_per_step < len(encoder.tokens)


def _batches(
    data: Features, encoder: Encoder, schedule: Schedule, generator: torch.Generator
) -> list[tuple[Tensor, Tensor | slice]]:
    """One epoch's batches: indices of images, on the device, and classes, on the CPU."""
    device = data.labels.device
    if not _samples(schedule, encoder):
        order = torch.randperm(len(data), generator=generator).to(device)
        return [(chosen, ALL) for chosen in order.split(schedule.batch_size)]
    drawn = class_batches(
        data.labels.cpu(),
        len(encoder.tokens),
        per_step=schedule.classes_per_step,
        batch_size=schedule.batch_size,
        generator=generator,
    )
    return [(chosen.to(device), classes) for chosen, classes in drawn]


def _step(
    contexts: Tensor,
    encoder: Encoder,
    batch: Features,
    classes: Tensor | slice,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
) -> tuple[Terms, Tensor]:
    """Take one step on n classes, again with smaller chunks where the device runs out of memory.

    Returns:
        The terms, and the prompts (C, n, F) before the step.
    """
    if isinstance(classes, Tensor):
        encoder = encoder.subset(classes.tolist())
        classes = classes.to(contexts.device)
        batch = Features(batch.images, torch.searchsorted(classes, batch.labels))
    while True:
        optimiser.zero_grad(set_to_none=True)
        try:
            prompts = encoder(contexts[:, classes] if contexts.dim() == 4 else contexts)
            terms = objective(batch, prompts, classes)
            terms["loss"].backward()
        except torch.OutOfMemoryError:
            encoder.shrink()
            continue
        optimiser.step()
        return terms, prompts.detach()


def _right(batch: Features, prompts: Tensor) -> Tensor:
    """Number of images (B, F) that are nearest to the prompt of their own class, of prompts (K, F)."""
    return ((batch.images @ prompts.T).argmax(1) == batch.labels).sum()


def _state(
    contexts: Tensor,
    optimiser: torch.optim.Optimizer,
    best: Tensor,
    best_epoch: int,
    generator: torch.Generator,
    history: list[EpochReport],
) -> State:
    """A copy of where the training stands, which its next steps leave alone."""
    momentum = optimiser.state[contexts].get("momentum_buffer")
    return State(
        contexts=contexts.detach().clone(),
        momentum=None if momentum is None else momentum.clone(),
        best=best,
        best_epoch=best_epoch,
        generator=generator.get_state(),
        history=tuple(history),
    )
