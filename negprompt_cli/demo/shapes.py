"""The shapes of the demonstration world as implicit functions.

Each function maps coordinates x, y (float arrays of equal shape, y points down, the circumscribed circle has a radius of
about 1) to values. These are negative inside the shape and positive outside; near the boundary they are about the distance
to it. This is enough for filling shapes with soft edges; the values are not exact distances.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]


def _regular_polygon(x: Field, y: Field, *, corners: int) -> Field:
    """Regular polygon with one corner up: the largest signed distance to the lines of its sides."""
    apothem = np.cos(np.pi / corners)
    directions = -np.pi / 2 + np.pi / corners + 2 * np.pi * np.arange(corners) / corners
    signed: Field = (
        np.max([x * np.float32(np.cos(a)) + y * np.float32(np.sin(a)) for a in directions], axis=0) - apothem
    )
    return signed


def _box(x: Field, y: Field, *, half_width: float, half_height: float) -> Field:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def circle(x: Field, y: Field) -> Field:
    """Disc."""
    return np.hypot(x, y) - 0.88


def square(x: Field, y: Field) -> Field:
    """Square with horizontal and vertical sides."""
    return _box(x, y, half_width=0.76, half_height=0.76)


def triangle(x: Field, y: Field) -> Field:
    """Equilateral triangle, corner up."""
    return _regular_polygon(x, y - 0.15, corners=3)


def diamond(x: Field, y: Field) -> Field:
    """Rhombus, taller than wide."""
    return (np.abs(x) / 0.6 + np.abs(y) - 1) * 0.51


def pentagon(x: Field, y: Field) -> Field:
    """Regular pentagon, corner up."""
    return _regular_polygon(x, y, corners=5)


def hexagon(x: Field, y: Field) -> Field:
    """Regular hexagon, corner up."""
    return _regular_polygon(x, y, corners=6)


def star(x: Field, y: Field) -> Field:
    """Five-pointed star, point up; the inner corners are at 0.42 of the outer radius."""
    sector = 2 * np.pi / 5
    radius = np.hypot(x, y)
    angle = np.arctan2(x, -y)
    folded = np.abs((angle + sector / 2) % sector - sector / 2)
    # The side is the line from the point (0, 1) to the inner corner; (along, across) is the mirrored pixel.
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    inner_along, inner_across = 0.42 * np.cos(sector / 2), 0.42 * np.sin(sector / 2)
    length = np.hypot(1 - inner_along, inner_across)
    signed: Field = (inner_across * (along - 1) + (1 - inner_along) * across) / length
    return signed


def cross(x: Field, y: Field) -> Field:
    """Upright cross with four equal arms."""
    upright = _box(x, y, half_width=0.28, half_height=0.9)
    level = _box(x, y, half_width=0.9, half_height=0.28)
    return np.minimum(upright, level)


def ring(x: Field, y: Field) -> Field:
    """Circle with a round hole."""
    return np.abs(np.hypot(x, y) - 0.68) - 0.22


def heart(x: Field, y: Field) -> Field:
    """Heart: a square on its corner with a disc on each of its upper sides."""
    low = y - 0.1
    body = _box((x + low) * np.float32(0.5**0.5), (x - low) * np.float32(0.5**0.5), half_width=0.5, half_height=0.5)
    lobes = np.hypot(np.abs(x) - 0.3535, low + 0.3535) - 0.5
    signed: Field = np.minimum(body, lobes)
    return signed


def crescent(x: Field, y: Field) -> Field:
    """Disc with a disc bitten out of its right side."""
    signed: Field = np.maximum(np.hypot(x, y) - 0.9, 0.72 - np.hypot(x - 0.45, y))
    return signed


def flower(x: Field, y: Field) -> Field:
    """Six round petals."""
    signed: Field = (np.hypot(x, y) - 0.7 - 0.24 * np.cos(6 * np.arctan2(y, x))) * 0.6
    return signed


def arrow(x: Field, y: Field) -> Field:
    """Arrow to the right: a shaft and a head."""
    shaft = _box(x + 0.4, y, half_width=0.5, half_height=0.2)
    head = np.maximum(0.1 - x, (x - 0.95) * np.float32(0.5**0.5) + np.abs(y) * np.float32(0.5**0.5))
    signed: Field = np.minimum(shaft, head)
    return signed


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    function.__name__: function
    for function in (
        circle,
        square,
        triangle,
        diamond,
        pentagon,
        hexagon,
        star,
        cross,
        ring,
        heart,
        crescent,
        flower,
        arrow,
    )
}
