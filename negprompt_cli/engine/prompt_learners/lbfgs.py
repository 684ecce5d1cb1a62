"""L-BFGS: one step down a smooth function, of which value and gradient are computed together.

The direction is the gradient times an estimate of the inverse Hessian from the last steps (Nocedal, Updating Quasi-Newton
Matrices with Limited Storage, 1980). The length is found by bisection until the weak Wolfe conditions hold (Lewis and
Overton, Nonsmooth Optimization via Quasi-Newton Methods, 2013): a step always lowers the value, and a value that is not
finite counts as too long a step. Nothing here has a rate: only the length tried first has a unit, and only where no step was
taken yet.

`torch.optim.LBFGS` evaluates the point it starts from again at each call and keeps its state to itself. Here a step is a
function of what it is given, so a checkpoint is three tensors.

Leaves out: when to stop.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 10
"""Steps that the estimate remembers."""
TRIALS = 20
"""Most lengths tried in one direction."""
SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
"""Constants of the Wolfe conditions, the usual ones (Nocedal and Wright, Numerical Optimization, 2006, section 3.1)."""


@dataclass(frozen=True)
class Point:
    """A place with the function's value there, and its gradient of the same shape."""

    place: Tensor
    value: float
    gradient: Tensor

    def finite(self) -> bool:
        """Whether value and gradient are finite numbers."""
        return math.isfinite(self.value) and bool(self.gradient.isfinite().all())


@dataclass(frozen=True)
class Memory:
    """The last steps (h, *shape) and the changes of the gradient (h, *shape) they brought, oldest first."""

    steps: Tensor
    changes: Tensor

    @classmethod
    def empty(cls, like: Tensor) -> "Memory":
        """A memory of no steps of places shaped as `like`."""
        return cls(like.new_zeros(0, *like.shape), like.new_zeros(0, *like.shape))

    def with_step(self, before: Point, after: Point) -> "Memory":
        """This memory and one more step, unless that says nothing of the curvature."""
        step, change = after.place - before.place, after.gradient - before.gradient
        if not float((step * change).sum()) > 1e-10 * float(step.norm() * change.norm()):
            return self
        return Memory(*(torch.cat([a, b[None]])[-MEMORY:] for a, b in ((self.steps, step), (self.changes, change))))

    def direction(self, gradient: Tensor, unit: float) -> Tensor:
        """Where to go: downhill, over ridges and along valleys alike.

        Args:
            gradient: at the place to go from.
            unit: root mean square of a first step's elements.
        """
        down = -gradient
        if not len(self.steps):
            length = unit * math.sqrt(down.numel())
            first: Tensor = down / float(down.norm()) * length
            return first
        pairs = [(s, y, 1 / (s * y).sum()) for s, y in zip(self.steps, self.changes, strict=True)]
        shares = []
        for step, change, inverse in reversed(pairs):
            shares.append(inverse * (step * down).sum())
            down -= shares[-1] * change
        step, change, _ = pairs[-1]
        down *= (step * change).sum() / (change * change).sum()
        for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
            down += (share - inverse * (change * down).sum()) * step
        return down


def descend(start: Point, memory: Memory, evaluate: Callable[[Tensor], Point], *, unit: float) -> tuple[Point, Memory]:
    """Take one step.

    Args:
        start: where to go from; finite.
        memory: of the steps that led there.
        evaluate: makes a place a point.
        unit: root mean square of a first step's elements.

    Returns:
        A point with a lower value, and the memory with this step; or `start` itself where no lower value was found even
        straight downhill, which in floating point is a minimum.
    """
    for remembered in (memory, Memory.empty(start.place)) if len(memory.steps) else (memory,):
        if float(start.gradient.norm()) == 0:
            break
        found = _line_search(start, remembered.direction(start.gradient, unit), evaluate)
        if found:
            return found, remembered.with_step(start, found)
    return start, memory


def _line_search(start: Point, direction: Tensor, evaluate: Callable[[Tensor], Point]) -> Point | None:
    """The point that meets the Wolfe conditions, or else the lowest met; None where nothing is lower."""
    slope = float((start.gradient * direction).sum())
    if not slope < 0:
        return None
    short, long, length = 0.0, math.inf, 1.0
    lowest: Point | None = None
    for _ in range(TRIALS):
        point = evaluate(start.place + length * direction)
        enough = start.value + SUFFICIENT_DECREASE * length * slope
        if not point.finite() or point.value > enough or point.value >= start.value:
            long = length
        else:
            if lowest is None or point.value < lowest.value:
                lowest = point
            if float((point.gradient * direction).sum()) >= CURVATURE * slope:
                return point
            short = length
        length = (short + long) / 2 if long < math.inf else 2 * short
    return lowest
