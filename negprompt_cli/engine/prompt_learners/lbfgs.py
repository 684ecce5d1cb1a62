"""L-BFGS: single minimisation steps on a smooth function.

The direction is the negative gradient times an estimate of the inverse Hessian from the last steps (Nocedal, Updating
Quasi-Newton Matrices with Limited Storage, 1980). Bisection finds a step length that fulfils the weak Wolfe conditions
(Lewis and Overton, Nonsmooth Optimization via Quasi-Newton Methods, 2013). A step always lowers the value; if a value is
not finite, the step was too long. There is no learning rate. Only the very first step needs an initial length, `unit`.

`torch.optim.LBFGS` evaluates the start point again at each call and hides its state. Here a step is a pure function, so a
checkpoint needs only three tensors. The caller decides when to stop.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 10
"""Number of past steps that the estimate uses."""
TRIALS = 20
"""Largest number of step lengths tried in one direction."""
SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
"""Constants of the Wolfe conditions, the usual ones (Nocedal and Wright, Numerical Optimization, 2006, section 3.1)."""


@dataclass(frozen=True)
class Point:
    """A point `place` of any shape, the function's value there, and its gradient of the same shape."""

    place: Tensor
    value: float
    gradient: Tensor

    def finite(self) -> bool:
        """Whether value and gradient are finite numbers."""
        return math.isfinite(self.value) and bool(self.gradient.isfinite().all())


@dataclass(frozen=True)
class Memory:
    """The last steps (h, *shape) and the changes of the gradient (h, *shape) over them, oldest first."""

    steps: Tensor
    changes: Tensor

    @classmethod
    def empty(cls, like: Tensor) -> "Memory":
        """Return a memory without steps, for points of the shape of `like`."""
        return cls(like.new_zeros(0, *like.shape), like.new_zeros(0, *like.shape))

    def with_step(self, before: Point, after: Point) -> "Memory":
        """Return this memory with one more step; a step without positive curvature is not added."""
        step, change = after.place - before.place, after.gradient - before.gradient
        if not float((step * change).sum()) > 1e-10 * float(step.norm() * change.norm()):
            return self
        return Memory(*(torch.cat([a, b[None]])[-MEMORY:] for a, b in ((self.steps, step), (self.changes, change))))

    def direction(self, gradient: Tensor, unit: float) -> Tensor:
        """Return the search direction, of the gradient's shape.

        Args:
            gradient: the gradient at the current point.
            unit: root mean square of the elements of the first step.
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
        start: the current point, with finite value and gradient.
        memory: the steps that led to it.
        evaluate: function that computes value and gradient at a place.
        unit: root mean square of the elements of the first step.

    Returns:
        A point with a lower value, and the memory with this step. If even the direction of steepest descent has no lower
        value, `start` itself; in floating point this is a minimum.
    """
    for remembered in (memory, Memory.empty(start.place)) if len(memory.steps) else (memory,):
        if float(start.gradient.norm()) == 0:
            break
        found = _line_search(start, remembered.direction(start.gradient, unit), evaluate)
        if found:
            return found, remembered.with_step(start, found)
    return start, memory


def _line_search(start: Point, direction: Tensor, evaluate: Callable[[Tensor], Point]) -> Point | None:
    """Return a point that fulfils the Wolfe conditions, else the lowest point tried; None if no point is lower."""
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
