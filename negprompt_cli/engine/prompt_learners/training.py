"""The training of both stages: context vectors against cached image features.

Because image features are fixed, a step costs the text tower's pass, not the images: a step over all of them costs hardly
more than one over a few. So the default (`FullBatch`) takes exact, deterministic steps over all images by L-BFGS (see
`lbfgs`). It has no learning rate, a step never ends with a higher loss, and it stops once the loss has settled. The other
ways see parts of the data in each step: `Sgd`, for presets whose rates belong to them, and `Adam`, where the classes are
too many for a step (POMP's local contrast, without its correction: Ren et al., Prompt Pre-Training with Twenty-Thousand
Classes, NeurIPS 2023; `class_batches` says which classes).

Every way is guarded: a loss that is not a finite number stops the training with an error, and `Trained` says where the
loss started, where it ended and why the training stopped. The epoch kept is the last, or the one with the lowest objective
on held-out ID images; OOD images are never seen.

A training can be taken up after any epoch: `State` holds all that the next one depends on, and what comes out is the same
bit for bit as without the break wherever the device computes the same twice.

Leaves out: what is minimised (see `losses`), and files.
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
"""(images with labels among n classes, prompt features (C, n, F), which classes these are) to named scalars, 'loss' among
them. Each is a mean over the images, or does not depend on them."""

ALL = slice(None)
"""Every class, in order."""

SETTLED_OVER = 10
"""Epochs over which `FullBatch` looks at how far the loss has fallen."""
LOGITS_AT_ONCE = 2**24
"""Image-prompt products computed together where a step sees all images: some 64 MiB for each copy that autograd keeps."""

ADAM_STEP = 0.3
"""First step of `Adam`, in units of the start's spread, for each element; it falls to zero along a cosine."""
ADAM_WARM_UP = 0.05
ADAM_DECAYS = (0.9, 0.99)
"""Decays of the running means of the gradient and of its square. The second is shorter than usual, as trainings are."""


@dataclass(frozen=True)
class FullBatch:
    """L-BFGS over all images and classes; an epoch is one step.

    `tolerance`: the training stops once the last `SETTLED_OVER` steps together lowered the loss by less than this share of
    what all steps lowered it by, or of 1 where that is less than 1. With 0 it stops at a minimum only.
    """

    tolerance: float = 0.01


@dataclass(frozen=True)
class Adam:
    """Adam in units of the start's spread, on images and prompts of `classes_per_step` classes at a time."""

    classes_per_step: int


@dataclass(frozen=True)
class Sgd:
    """SGD with a learning rate of someone's choice.

    `warmup`: share of all steps, 0 to 1, over which the rate climbs linearly, before it falls to zero along a cosine (SGDR,
    Loshchilov & Hutter, ICLR 2017). `batch_size`: images per step. `classes_per_step`: prompts encoded per step and context
    (see `class_batches`); 0, or at least K, for all.
    """

    lr: float
    batch_size: int
    momentum: float = 0.0
    warmup: float = 0.0
    classes_per_step: int = 0


Method = FullBatch | Adam | Sgd


@dataclass(frozen=True)
class Features:
    """ID images of one training: features (N, F), L2-normalised, and labels (N,), and maybe those of R patches (N, R, F)."""

    images: Tensor
    labels: Tensor
    patches: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Features":
        return Features(self.images[index], self.labels[index], None if self.patches is None else self.patches[index])


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training.

    Attributes:
        start: (C, M, D) or (C, K, M, D) initial contexts.
        encoder: encoder of the K class names.
        data: training images.
        objective: what is minimised, see `positive_objective` and `negative_objective`.
        method: how steps are taken.
        epochs: most epochs.
        judges: (K, F) prompts that tell an image's class; None where the contexts that learn are those prompts'.
        keep: 'last' epoch or 'best' on `held_out`.
        held_out: ID images for `keep='best'`, and for reports.
        seed: of the order of batches; a method without batches needs none.
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
        """How many of the classes each step sees; None for all."""
        some = 0 if isinstance(self.method, FullBatch) else self.method.classes_per_step
        return some if 0 < some < len(self.encoder.tokens) else None

    def unit(self) -> float:
        """The root mean square of the start's elements: how large a coordinate of token embeddings is."""
        return float(self.start.square().mean().sqrt()) or 1.0


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to.

    `terms`: of the loss; after the step for `FullBatch`, else the means over the epoch's steps, each over its own classes.
    `accuracy`: share of the epoch's ID images classified right, among all K classes, by the positives, in [0, 1]: those of
    each image's step, but where stage 1's steps see some of the classes, those at the end of the epoch. `lr`: of the last
    step; None for `FullBatch`. `held_out`: the objective on held-out images, over all K classes, where there are any.
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

    `contexts` as they are, `best` as they were after epoch `best_epoch` (0: the start), both shaped as the start;
    `memory`: the method's own tensors by name. `generator`: the state of the generator of the batch order, uint8.
    `start_loss`: see `Trained`. On the device of the training unless they come from elsewhere.
    """

    contexts: Tensor
    memory: Mapping[str, Tensor]
    best: Tensor
    best_epoch: int
    generator: Tensor
    start_loss: float
    history: tuple[EpochReport, ...]


Outcome = Literal["tolerance", "minimum", "epochs"]
"""Why a training stopped: the loss has settled within the tolerance; no step lowers it any more; all epochs are done."""


@dataclass(frozen=True)
class Trained:
    """What a training made.

    `contexts` kept, the `epoch` they are from (1 to epochs), and every epoch's report. `start_loss`, `end_loss`: of the
    start and of the kept contexts, over all training images and classes.
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
    """Stage 1's: cross-entropy (CoOp), among plain word prompts too (FA), and the distance to these (KgCoOp).

    Args:
        scale: CLIP's logit scale.
        anchors: (K, F) features of plain word prompts, L2-normalised, or None.
        anchor_weight: weight of the distance to them in units of the scale, at least 0. The cross-entropy's slope grows with
            the scale; in its units one weight does the same for every model.
        forced: how often each anchor is among the classes of the cross-entropy; 0 without anchors.
        patch_weight: weight of the entropy of patches that do not show the class (LoCoOp); 0 without patches.
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
    """Stage 2's: a preset of losses, against the features (K, F) of the frozen positive prompts.

    The last `others` of the K names are no classes of the images: they belong to the class term alone. Steps must then see
    all classes.
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
        job: what to train and how.
        state: where an earlier training of the same job stopped; it is taken up there.
        on_epoch: called after each epoch.
        on_state: called after each epoch, before `on_epoch`, with all that the next ones depend on.

    Raises:
        NegPromptError: the loss is not a finite number.
    """
    generator = torch.Generator().manual_seed(job.seed)
    if state:
        generator.set_state(state.generator.cpu())
    learner: _Learner = _FullBatchLearner(job, state) if isinstance(job.method, FullBatch) else _Stepper(job, state)
    start_loss = state.start_loss if state else learner.loss()
    if not math.isfinite(start_loss):
        raise NegPromptError(
            f"The loss is {start_loss} before the first step. Image features, the model's weights or its logit scale hold "
            "values that are not finite numbers; check where they come from."
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
    """Batches of one epoch whose steps see `per_step` of K classes each.

    The classes are dealt at random into ceil(K / per_step) groups of about one size. A batch holds images of one group: a
    batch of any images would soon hold more classes than a step may see. Its prompts are the group's and those of other
    classes drawn at random up to `per_step`, so that the true class is always in. Every image comes once per epoch, and the
    batches come in random order.

    Args:
        labels: (N,) ID labels, on the CPU.
        classes: K, more than `per_step`.
        per_step: classes of a step, at least 1.
        batch_size: most images of a batch; None for all of a group's.
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
        for chosen in members.split(batch_size or len(members)) if len(members) else ():
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


def rate(position: float, *, lr: float, warmup: float, steps: int) -> float:
    """Learning rate of step `position` (from 0) of `steps`: a linear warm-up over a share of them, then a cosine to zero."""
    warm = round(warmup * steps)
    if position < warm:
        return lr * (position + 1) / (warm + 1)
    return lr * 0.5 * (1 + math.cos(math.pi * (position - warm) / max(1, steps - warm)))


def _outcome(job: Job, start_loss: float, history: Sequence[EpochReport]) -> Outcome | None:
    """Why to stop before the next epoch, if there is a reason. It follows from the reports, so a resumed training agrees."""
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
        f"Lower the learning rate ({job.method.lr:g}), or leave it out: the default training needs none."
        if isinstance(job.method, Sgd)
        else "Please report this."
    )
    raise NegPromptError(
        f"The training diverged: after epoch {epoch} of {job.epochs} the loss is {values[0]}. Nothing of it is kept. {cure}"
    )


def _loss(job: Job, contexts: Tensor) -> float:
    """The loss of contexts over all images and classes."""
    with torch.no_grad():
        prompts = job.encoder(contexts)
        parts = _image_parts(job)
        return sum(float(job.objective(part, prompts, ALL)["loss"]) * len(part) for part in parts) / len(job.data)


def _image_parts(job: Job) -> list[Features]:
    """The training images in parts whose products with all prompts fit `LOGITS_AT_ONCE`."""
    patches = 0 if job.data.patches is None else job.data.patches.shape[1]
    at_once = max(1, LOGITS_AT_ONCE // (len(job.encoder.tokens) * len(job.start) * (1 + patches)))
    return [job.data[first : first + at_once] for first in range(0, len(job.data), at_once)]


def _right(batch: Features, prompts: Tensor) -> Tensor:
    """Number of images (B, F) that are nearest to the prompt of their own class, of prompts (K, F)."""
    return ((batch.images @ prompts.T).argmax(1) == batch.labels).sum()


@dataclass(frozen=True)
class _Epoch:
    """What a learner says of an epoch, see `EpochReport`."""

    terms: dict[str, float]
    accuracy: float
    lr: float | None


class _Learner(Protocol):
    """One method at work on one job."""

    @property
    def contexts(self) -> Tensor:
        """The contexts as they are."""

    def epoch(self, number: int, generator: torch.Generator) -> _Epoch:
        """Do epoch `number`, from 1."""

    def loss(self) -> float:
        """The loss of the contexts over all images and classes."""

    def prompts(self) -> Tensor:
        """The prompts (C, K, F) of the contexts."""

    def memory(self) -> dict[str, Tensor]:
        """Copies of the tensors that the next epoch depends on, besides the contexts."""


@dataclass(frozen=True)
class _Judged(Point):
    """Contexts with loss and gradient, the loss's terms, and prompts (C, K, F); None where a checkpoint has none."""

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
        # A step that finds nothing lower gives back the point it was given.
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
        """Loss and gradient over all images, again with smaller chunks where the device runs out of memory."""
        while True:
            variable = contexts.clone().requires_grad_()
            try:
                prompts = self._job.encoder(variable)
                # The prompts are encoded once; only their products with the images are made part by part.
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
    """SGD or Adam: many steps in an epoch, each on some of the images and possibly of the classes."""

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
        # With a part of the classes a step cannot tell what stage 1's prompts get right among all.
        self._blind = job.judges is None and job.classes_per_step is not None

    def epoch(self, number: int, generator: torch.Generator) -> _Epoch:
        job = self._job
        # Kept on the device until the epoch ends: reading a number back would stop a GPU at every step.
        sums: dict[str, Tensor] = {}
        right = torch.zeros((), device=self.contexts.device)
        lr = 0.0
        batches = self._batches(generator)
        for place, (chosen, classes) in enumerate(batches):
            # Epochs of sampled classes may differ in their number of steps; each takes up the same share of the schedule.
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
        """Take step `step` (from 0) of `steps`, and return its rate."""
        if isinstance(self._method, Sgd):
            velocity = self._memory["momentum"].mul_(self._method.momentum).add_(gradient)
            lr = rate(step, lr=self._method.lr, warmup=self._method.warmup, steps=steps)
            self.contexts = self.contexts - lr * velocity
            return lr
        first, second = ADAM_DECAYS
        mean = self._memory["mean"].mul_(first).add_(gradient, alpha=1 - first) / (1 - first ** (step + 1))
        square = self._memory["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        lr = rate(step, lr=ADAM_STEP * self._unit, warmup=ADAM_WARM_UP, steps=steps)
        # An element without a gradient, such as of a class that no step has seen, stays where it is.
        size = (square / (1 - second ** (step + 1))).sqrt().clamp(min=torch.finfo(square.dtype).tiny)
        self.contexts = self.contexts - lr * mean / size
        return lr

    def _batches(self, generator: torch.Generator) -> list[tuple[Tensor, Tensor | slice]]:
        """One epoch's batches: indices of images, on the device, and classes, on the CPU."""
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
        """The terms on n classes, their prompts (C, n, F) and the gradient, again where the device runs out of memory."""
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
