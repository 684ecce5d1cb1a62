"""The training of both stages: learn context vectors from cached image features.

Image features are fixed, so most of the time of a step is the text tower's, and a step over all images takes hardly longer
than one over a few. The default method (`FullBatch`) therefore takes exact, deterministic steps over all images by L-BFGS
(see `lbfgs`). It has no learning rate, a step never raises the loss, and training stops when the loss has settled. The
other methods use a part of the data in each step: `Sgd`, for presets that define a learning rate, and `Adam`, for more
classes than a step can hold (POMP's local contrast, without its correction: Ren et al., Prompt Pre-Training with
Twenty-Thousand Classes, NeurIPS 2023; `class_batches` chooses the classes).

With every method a loss that is not finite stops the training with an error. `Trained` reports the first and the last loss
and why the training stopped. The contexts kept are those of the last epoch, or of the epoch with the lowest objective on
held-out ID images. OOD images are never used.

A training can be resumed after any epoch: `State` has everything that the next epoch depends on. On devices that compute
deterministically, a resumed training gives bit for bit the result of an uninterrupted one.

The objectives are in `losses`. This module reads and writes no files.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from negprompt_cli.engine.losses import (
    NegativeLoss,
    Terms,
    anchor_distance,
    forced_loss,
    patch_entropy,
    positive_loss,
)
from negprompt_cli.engine.prompt_learners.lbfgs import Memory, Point, descend
from negprompt_cli.engine.prompt_learners.prompt_encoder import Encoder
from negprompt_cli.errors import NegPromptError

Objective = Callable[["Features", Tensor, Tensor | slice], Terms]
"""A function of (images with labels among n classes, prompt features (C, n, F), the n classes) that returns named scalars,
one of them 'loss'. Each is a mean over the images or does not depend on them."""

ALL = slice(None)
"""All classes, in order."""

SETTLED_OVER = 10
"""Number of recent epochs over which `FullBatch` measures the decrease of the loss."""
LOGITS_AT_ONCE = 2**24
"""Image-prompt products computed together in a step over all images: about 64 MiB for each copy that autograd keeps."""

ADAM_STEP = 0.3
"""Step size of `Adam` per element after the warm-up, in units of `Job.unit`; it decays to zero along a cosine."""
ADAM_WARM_UP = 0.05
"""Share of all steps over which Adam's step size grows linearly."""
ADAM_DECAYS = (0.9, 0.99)
"""Decays of the running means of the gradient and of its square. The second is lower than usual: trainings are short."""


@dataclass(frozen=True)
class FullBatch:
    """L-BFGS over all images and classes; an epoch is one step.

    `tolerance`: training stops when the last `SETTLED_OVER` steps together lowered the loss by less than `tolerance` times
    the decrease since the start (or times 1, if that decrease is below 1). With 0 it stops at a minimum only.
    """

    tolerance: float = 0.01


@dataclass(frozen=True)
class Adam:
    """Adam on the images and prompts of `classes_per_step` classes at a time; its step size is in units of `Job.unit`."""

    classes_per_step: int


@dataclass(frozen=True)
class Sgd:
    """SGD with momentum and a given learning rate.

    `warmup`: share of all steps, 0 to 1, over which the rate grows linearly; then it decays to zero along a cosine (SGDR,
    Loshchilov & Hutter, ICLR 2017). `batch_size`: images per step. `classes_per_step`: prompts encoded per step and context
    (see `class_batches`); 0, or K and more, means all.
    """

    lr: float
    batch_size: int
    momentum: float = 0.0
    warmup: float = 0.0
    classes_per_step: int = 0


Method = FullBatch | Adam | Sgd


@dataclass(frozen=True)
class Features:
    """ID images of a training: features (N, F), labels (N,), and optionally patch features (N, R, F); L2-normalised."""

    images: Tensor
    labels: Tensor
    patches: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Features":
        return Features(self.images[index], self.labels[index], None if self.patches is None else self.patches[index])


@dataclass(frozen=True, kw_only=True)
class Job:
    """The definition of one training.

    Attributes:
        start: (C, M, D) or (C, K, M, D) initial contexts.
        encoder: encoder of the K class names.
        data: training images.
        objective: the function to minimise, see `positive_objective` and `negative_objective`.
        method: the optimisation method.
        epochs: largest number of epochs.
        judges: (K, F) prompt features that classify images for the reported accuracy; None uses the prompts in training.
        keep: the contexts to keep: those of the 'last' epoch, or of the 'best' epoch on `held_out`.
        held_out: ID images for `keep='best'` and for reports.
        seed: random seed of the batch order; `FullBatch` does not use it.

    Raises:
        ValueError: `keep` is 'best' and there are no held-out images.
    """

    start: Tensor
    encoder: Encoder
    data: Features
    objective: Objective
    method: Method = field(default_factory=FullBatch)
    epochs: int = 100
    judges: Tensor | None = None
    keep: Literal["last", "best"] = "last"
    held_out: Features | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep == "best" and self.held_out is None:
            raise ValueError("keep='best' needs held-out ID images")

    @property
    def classes_per_step(self) -> int | None:
        """The number of classes in each step; None means all."""
        some = 0 if isinstance(self.method, FullBatch) else self.method.classes_per_step
        return some if 0 < some < len(self.encoder.tokens) else None

    def unit(self) -> float:
        """Return the root mean square of the elements of `start`: the typical size of a coordinate; 1 if all are 0."""
        return float(self.start.square().mean().sqrt()) or 1.0


@dataclass(frozen=True)
class EpochReport:
    """The results of one epoch.

    `terms`: the terms of the loss; for `FullBatch` after the step, otherwise means over the epoch's steps, each over its own
    classes. `accuracy`: share, in [0, 1], of the epoch's ID images that the positives classify correctly among all K
    classes. Each image is classified in its own step; if stage 1's steps use only some of the classes, at the end of the
    epoch. `lr`: learning rate of the last step; None for `FullBatch`. `held_out`: the objective on held-out images over all
    K classes; None without held-out images.
    """

    epoch: int
    epochs: int
    terms: dict[str, float]
    accuracy: float
    lr: float | None
    held_out: float | None


@dataclass(frozen=True)
class State:
    """The state of a training after len(history) epochs.

    `contexts`: the current contexts. `best`: the contexts after epoch `best_epoch` (0 is the start). Both have the shape of
    `Job.start`. `memory`: the optimiser's tensors by name. `generator`: uint8 state of the generator of the batch order.
    `start_loss`: see `Trained`. A state read from a file may be on another device than the training.
    """

    contexts: Tensor
    memory: Mapping[str, Tensor]
    best: Tensor
    best_epoch: int
    generator: Tensor
    start_loss: float
    history: tuple[EpochReport, ...]


Outcome = Literal["tolerance", "minimum", "epochs"]
"""Why a training stopped: the loss settled within the tolerance, no step lowers the loss further, or all epochs are done."""


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    `contexts`: the contexts that are kept, of the shape of `Job.start`. `epoch`: the epoch they come from, 1 to epochs.
    `history`: the report of every epoch. `start_loss`, `end_loss`: the loss of the initial and of the kept contexts over all
    training images and classes. `outcome`: why the training stopped.
    """

    contexts: Tensor
    epoch: int
    history: tuple[EpochReport, ...]
    start_loss: float
    end_loss: float
    outcome: Outcome


def positive_objective(
    *,
    scale: float,
    anchors: Tensor | None = None,
    anchor_weight: float = 0.0,
    forced: int = 0,
    patch_weight: float = 0.0,
) -> Objective:
    """Return stage 1's objective: cross-entropy (CoOp) and optional terms.

    These are plain prompts as further classes (FA), the distance to plain prompts (KgCoOp) and patch entropy (LoCoOp).

    Args:
        scale: CLIP's logit scale.
        anchors: (K, F) features of plain prompts, L2-normalised, or None.
        anchor_weight: weight of the distance to the anchors, at least 0. It is multiplied by the scale, because the slope of
            the cross-entropy grows with the scale; so one weight suits every model.
        forced: number of copies of each anchor among the classes of the cross-entropy; 0 without anchors.
        patch_weight: weight of the entropy of patches that do not show the class; 0 without patches.
    """

    def objective(batch: Features, prompts: Tensor, classes: Tensor | slice) -> Terms:
        own = prompts[0]
        if forced and anchors is not None:
            loss = forced_loss(batch.images, batch.labels, own, anchors[classes], scale, forced)
        else:
            loss = positive_loss(batch.images, batch.labels, own, scale)
        terms = {"cross-entropy": loss}
        if anchors is not None:
            terms["anchor"] = anchor_distance(own, anchors[classes])
            loss = loss + anchor_weight * scale * terms["anchor"]
        if patch_weight and batch.patches is not None:
            terms["patches"] = patch_entropy(batch.patches.to(own.dtype), batch.labels, own, scale)
            loss = loss + patch_weight * terms["patches"]
        return {"loss": loss, **terms} if len(terms) > 1 else {"loss": loss}

    return objective


def negative_objective(loss: NegativeLoss, *, positives: Tensor, scale: float, others: int = 0) -> Objective:
    """Return stage 2's objective: a loss of the negatives and the features (K, F) of the frozen positive prompts.

    The last `others` of the K names are not classes of the images. Only the class term uses them, and every step must then
    use all classes.
    """

    def objective(batch: Features, prompts: Tensor, classes: Tensor | slice) -> Terms:
        seen, negatives = positives[classes], prompts.transpose(0, 1)
        own = len(seen) - others
        return loss(batch.images, batch.labels, seen[:own], negatives[:own], scale, bound=(seen, negatives))

    return objective


def train(
    job: Job,
    *,
    state: State | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_state: Callable[[State], None] | None = None,
) -> Trained:
    """Learn contexts.

    Args:
        job: the definition of the training.
        state: the state of an earlier training of the same job, which is resumed; None starts anew.
        on_epoch: called after each epoch.
        on_state: called after each epoch, before `on_epoch`, with the state from which training can resume.

    Raises:
        NegPromptError: the loss is not finite.
    """
    generator = torch.Generator().manual_seed(job.seed)
    if state:
        generator.set_state(state.generator.cpu())
    learner: _Learner = _FullBatchLearner(job, state) if isinstance(job.method, FullBatch) else _Stepper(job, state)
    start_loss = state.start_loss if state else learner.loss()
    if not math.isfinite(start_loss):
        raise NegPromptError(
            f"The loss is {start_loss} before the first step: image features, the model's weights or its logit scale "
            "contain values that are not finite. Check these inputs."
        )
    history = list(state.history) if state else []
    best = state.best.to(job.start) if state else job.start.detach().clone()
    best_epoch = state.best_epoch if state else 0
    while not (outcome := _outcome(job, start_loss, history)):
        epoch = learner.epoch(len(history) + 1, generator)
        _stop_unless_finite([epoch.terms["loss"]], learner.contexts, len(history) + 1, job)
        held_out: float | None = None
        if job.held_out is not None:
            with torch.no_grad():
                held_out = float(job.objective(job.held_out, learner.prompts(), ALL)["loss"])
            _stop_unless_finite([held_out], learner.contexts, len(history) + 1, job)
            lowest = history[best_epoch - 1].held_out if best_epoch else None
            if lowest is None or held_out < lowest:
                best, best_epoch = learner.contexts.clone(), len(history) + 1
        history.append(EpochReport(len(history) + 1, job.epochs, epoch.terms, epoch.accuracy, epoch.lr, held_out))
        if on_state:
            on_state(
                State(
                    contexts=learner.contexts.clone(),
                    memory=learner.memory(),
                    best=best,
                    best_epoch=best_epoch,
                    generator=generator.get_state(),
                    start_loss=start_loss,
                    history=tuple(history),
                )
            )
        if on_epoch:
            on_epoch(history[-1])
    if job.keep == "best":
        end_loss = history[best_epoch - 1].terms["loss"] if isinstance(job.method, FullBatch) else _loss(job, best)
        return Trained(best, best_epoch, tuple(history), start_loss, end_loss, outcome)
    return Trained(learner.contexts, len(history), tuple(history), start_loss, learner.loss(), outcome)


def class_batches(
    labels: Tensor, classes: int, *, per_step: int, batch_size: int | None, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Make the batches of one epoch, each with `per_step` of the K classes.

    The classes are split at random into ceil(K / per_step) groups of nearly equal size. A batch has images of one group
    only, because random images could have more classes than a step allows. Its prompts are those of the group, filled up
    to `per_step` with random other classes, so the true class is always present. Every image occurs once per epoch, and
    the order of batches is random.

    Args:
        labels: (N,) ID labels, on the CPU.
        classes: K, more than `per_step`.
        per_step: number of classes in a step, at least 1.
        batch_size: largest number of images in a batch; None takes all images of a group.
        generator: a CPU generator.

    Returns:
        Pairs of image indices (b,) and ascending class indices (per_step,).
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
        for chosen in members.split(batch_size or len(members)) if len(members) else ():
            pool = torch.randperm(classes, generator=generator)
            others = pool[group_of[pool] != number][: per_step - len(group)]
            batches.append((chosen, torch.cat([group, others]).sort().values))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def split_held_out(labels: Tensor, share: float, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split images into training and held-out images for selection, with the same share of each class.

    At least one image of each class is left for training.

    Args:
        labels: (N,) ID labels.
        share: share of each class to hold out, in (0, 1).
        generator: a CPU generator.

    Returns:
        Ascending indices of the training images and of the held-out images; together (N,).
    """
    train, held = [], []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten().cpu()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.append(members[:count])
        train.append(members[count:])
    return torch.cat(train).sort().values, torch.cat(held).sort().values


def rate(position: float, *, lr: float, warmup: float, steps: int) -> float:
    """Return the learning rate of step `position` (from 0) of `steps`: linear warm-up, then a cosine decay to zero."""
    warm = round(warmup * steps)
    if position < warm:
        return lr * (position + 1) / (warm + 1)
    return lr * 0.5 * (1 + math.cos(math.pi * (position - warm) / max(1, steps - warm)))


def _outcome(job: Job, start_loss: float, history: Sequence[EpochReport]) -> Outcome | None:
    """Return why training stops before the next epoch, or None. It depends on reports only, so resuming changes nothing."""
    if isinstance(job.method, FullBatch) and history:
        losses = [start_loss, *(report.terms["loss"] for report in history)]
        if losses[-2] == losses[-1]:
            return "minimum"
        last = losses[-1 - SETTLED_OVER :]
        if len(last) > SETTLED_OVER and last[0] - last[-1] < job.method.tolerance * max(1.0, start_loss - last[-1]):
            return "tolerance"
    return "epochs" if len(history) >= job.epochs else None


def _stop_unless_finite(values: Sequence[float], contexts: Tensor, epoch: int, job: Job) -> None:
    if all(math.isfinite(v) for v in values) and contexts.isfinite().all():
        return
    cure = (
        f"Lower the learning rate ({job.method.lr:g}), or omit it: the default training needs none."
        if isinstance(job.method, Sgd)
        else "Please report this."
    )
    raise NegPromptError(
        f"The training diverged: after epoch {epoch} of {job.epochs} the loss is {values[0]}. No result is saved. {cure}"
    )


def _loss(job: Job, contexts: Tensor) -> float:
    """Return the loss of contexts over all images and classes."""
    with torch.no_grad():
        prompts = job.encoder(contexts)
        parts = _image_parts(job)
        return sum(float(job.objective(part, prompts, ALL)["loss"]) * len(part) for part in parts) / len(job.data)


def _image_parts(job: Job) -> list[Features]:
    """Split the training images into parts whose products with all prompts number at most `LOGITS_AT_ONCE`."""
    patches = 0 if job.data.patches is None else job.data.patches.shape[1]
    at_once = max(1, LOGITS_AT_ONCE // (len(job.encoder.tokens) * len(job.start) * (1 + patches)))
    return [job.data[first : first + at_once] for first in range(0, len(job.data), at_once)]


def _right(batch: Features, prompts: Tensor) -> Tensor:
    """Return how many images (B, F) are nearest, among prompts (K, F), to the prompt of their own class; a scalar."""
    return ((batch.images @ prompts.T).argmax(1) == batch.labels).sum()


@dataclass(frozen=True)
class _Epoch:
    """A learner's results of an epoch, see `EpochReport`."""

    terms: dict[str, float]
    accuracy: float
    lr: float | None


class _Learner(Protocol):
    """A method applied to a job."""

    @property
    def contexts(self) -> Tensor:
        """The current contexts."""

    def epoch(self, number: int, generator: torch.Generator) -> _Epoch:
        """Run epoch `number`, counted from 1."""

    def loss(self) -> float:
        """Return the loss of the current contexts over all images and classes."""

    def prompts(self) -> Tensor:
        """Return the prompt features (C, K, F) of the current contexts."""

    def memory(self) -> dict[str, Tensor]:
        """Return copies of the tensors, besides the contexts, that the next epoch depends on."""


@dataclass(frozen=True)
class _Judged(Point):
    """Contexts with loss and gradient, the terms of the loss, and prompts (C, K, F); None after loading a checkpoint."""

    terms: dict[str, float]
    prompts: Tensor | None


class _FullBatchLearner:
    def __init__(self, job: Job, state: State | None) -> None:
        self._job, self._unit, self._parts = job, job.unit(), _image_parts(job)
        self._memory = Memory.empty(job.start)
        self._point = self._evaluate(job.start.detach()) if state is None else self._restore(state)

    @property
    def contexts(self) -> Tensor:
        return self._point.place

    def epoch(self, number: int, generator: torch.Generator) -> _Epoch:
        # If no lower loss is found, `descend` returns the current point.
        point, self._memory = descend(self._point, self._memory, self._evaluate, unit=self._unit)
        assert isinstance(point, _Judged)
        self._point = point
        judges = self.prompts()[0] if self._job.judges is None else self._job.judges
        right = sum(int(_right(part, judges)) for part in self._parts)
        return _Epoch(self._point.terms, right / len(self._job.data), None)

    def loss(self) -> float:
        return self._point.value

    def prompts(self) -> Tensor:
        if self._point.prompts is None:
            with torch.no_grad():
                return self._job.encoder(self.contexts)
        return self._point.prompts

    def memory(self) -> dict[str, Tensor]:
        return {
            "gradient": self._point.gradient,
            "steps": self._memory.steps,
            "changes": self._memory.changes,
        }

    def _restore(self, state: State) -> _Judged:
        like, memory, terms = self._job.start, state.memory, state.history[-1].terms
        self._memory = Memory(memory["steps"].to(like), memory["changes"].to(like))
        return _Judged(state.contexts.to(like), terms["loss"], memory["gradient"].to(like), terms, None)

    def _evaluate(self, contexts: Tensor) -> _Judged:
        """Compute loss and gradient over all images; retry with smaller chunks if the device runs out of memory."""
        while True:
            variable = contexts.clone().requires_grad_()
            try:
                prompts = self._job.encoder(variable)
                # The prompts are encoded once; only their products with the images are computed in parts.
                leaf = prompts.detach().requires_grad_()
                sums: dict[str, Tensor] = {}
                for part in self._parts:
                    terms = self._job.objective(part, leaf, ALL)
                    share = len(part) / len(self._job.data)
                    (terms["loss"] * share).backward()
                    for name, term in terms.items():
                        sums[name] = sums.get(name, 0) + term.detach() * share
                prompts.backward(leaf.grad)
            except torch.OutOfMemoryError:
                self._job.encoder.shrink()
                continue
            means = {name: float(total) for name, total in sums.items()}
            assert variable.grad is not None
            return _Judged(contexts, means["loss"], variable.grad, means, leaf.detach())


class _Stepper:
    """SGD or Adam: an epoch has many steps, each on some of the images and possibly on some of the classes."""

    def __init__(self, job: Job, state: State | None) -> None:
        assert not isinstance(job.method, FullBatch)
        self._job, self._method = job, job.method
        self.contexts = (state.contexts if state else job.start).detach().to(job.start, copy=True)
        names = ("mean", "square") if isinstance(job.method, Adam) else ("momentum",)
        self._memory = {
            name: state.memory[name].to(job.start, copy=True) if state else torch.zeros_like(job.start)
            for name in names
        }
        self._unit = job.unit()
        # In stage 1, a step with some of the classes cannot measure the accuracy among all classes.
        self._blind = job.judges is None and job.classes_per_step is not None

    def epoch(self, number: int, generator: torch.Generator) -> _Epoch:
        job = self._job
        # The sums stay on the device until the epoch ends, because reading a number makes the CPU wait for the GPU.
        sums: dict[str, Tensor] = {}
        right = torch.zeros((), device=self.contexts.device)
        lr = 0.0
        batches = self._batches(generator)
        for place, (chosen, classes) in enumerate(batches):
            # Epochs of sampled classes may have different numbers of steps; each covers the same share of the schedule.
            step, steps = (number - 1) * len(batches) + place, len(batches) * job.epochs
            terms, prompts, gradient = self._gradient(job.data[chosen], classes)
            lr = self._move(gradient, step, steps)
            if not self._blind:
                right += _right(job.data[chosen], prompts[0] if job.judges is None else job.judges)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() * len(chosen)
        if self._blind:
            prompts = self.prompts()
            for chosen, _ in batches:
                right += _right(job.data[chosen], prompts[0])
        means = {name: float(total) / len(job.data) for name, total in sums.items()}
        return _Epoch(means, float(right) / len(job.data), lr)

    def loss(self) -> float:
        return _loss(self._job, self.contexts)

    def prompts(self) -> Tensor:
        with torch.no_grad():
            return self._job.encoder(self.contexts)

    def memory(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._memory.items()}

    def _move(self, gradient: Tensor, step: int, steps: int) -> float:
        """Take step `step` (from 0) of `steps` and return its learning rate."""
        if isinstance(self._method, Sgd):
            velocity = self._memory["momentum"].mul_(self._method.momentum).add_(gradient)
            lr = rate(step, lr=self._method.lr, warmup=self._method.warmup, steps=steps)
            self.contexts = self.contexts - lr * velocity
            return lr
        first, second = ADAM_DECAYS
        mean = self._memory["mean"].mul_(first).add_(gradient, alpha=1 - first) / (1 - first ** (step + 1))
        square = self._memory["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        lr = rate(step, lr=ADAM_STEP * self._unit, warmup=ADAM_WARM_UP, steps=steps)
        # The clamp keeps elements without any gradient so far (such as classes not yet used) unchanged.
        size = (square / (1 - second ** (step + 1))).sqrt().clamp(min=torch.finfo(square.dtype).tiny)
        self.contexts = self.contexts - lr * mean / size
        return lr

    def _batches(self, generator: torch.Generator) -> list[tuple[Tensor, Tensor | slice]]:
        """Return one epoch's batches: image indices on the device, and class indices on the CPU."""
        labels, some = self._job.data.labels, self._job.classes_per_step
        size = self._method.batch_size if isinstance(self._method, Sgd) else None
        if some is None:
            order = torch.randperm(len(labels), generator=generator).to(labels.device)
            return [(chosen, ALL) for chosen in order.split(size or len(labels))]
        drawn = class_batches(
            labels.cpu(), len(self._job.encoder.tokens), per_step=some, batch_size=size, generator=generator
        )
        return [(chosen.to(labels.device), classes) for chosen, classes in drawn]

    def _gradient(self, batch: Features, classes: Tensor | slice) -> tuple[Terms, Tensor, Tensor]:
        """Compute the terms on n classes, their prompts (C, n, F) and the gradient; retry if device memory runs out."""
        encoder = self._job.encoder
        if isinstance(classes, Tensor):
            encoder = encoder.subset(classes.tolist())
            classes = classes.to(self.contexts.device)
            batch = Features(batch.images, torch.searchsorted(classes, batch.labels))
        while True:
            variable = self.contexts.clone().requires_grad_()
            try:
                prompts = encoder(variable[:, classes] if variable.dim() == 4 else variable)
                terms = self._job.objective(batch, prompts, classes)
                terms["loss"].backward()
            except torch.OutOfMemoryError:
                encoder.shrink()
                continue
            assert variable.grad is not None
            return terms, prompts.detach(), variable.grad
