"""Draw things of the demonstration world as small RGB images, varying everything that a class name does not define.

A `View` has all varied properties (place, size, rotation, background, light, blur, noise), so that captions can mention
them. `draw` makes pixels from things and a view. Randomness comes only from the given generator, and only numpy is used, so
equal seeds give equal images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from negprompt_cli.demo.shapes import SHAPES
from negprompt_cli.demo.world import Thing, World

Image = NDArray[np.uint8]
Plane = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Pose:
    """The position of a thing: centre and radius as fractions of the image's side, angle in radians."""

    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True, kw_only=True)
class View:
    """The view of a scene.

    Attributes:
        poses: one pose per thing, in drawing order.
        background: one of the world's kinds of background.
        background_rgb: colour of the background, each value in [0, 1].
        light: factor of the brightness; 1 is neutral.
        blurs: number of passes of a 1-2-1 blur.
        noise: standard deviation of the pixel noise, for values in [0, 1].
        clutter: number of small specks behind the things.
    """

    poses: tuple[Pose, ...]
    background: str
    background_rgb: tuple[float, float, float]
    light: float
    blurs: int
    noise: float
    clutter: int


def sample_view(world: World, *, things: int, generator: np.random.Generator) -> View:
    """Sample a view of a scene of 0, 1 or 2 things; two are side by side, the first on the left."""
    poses = []
    for index in range(things):
        largest = 0.42 if things == 1 else 0.24
        radius = float(generator.uniform(0.5 * largest, largest))
        x = float(generator.uniform(0.35, 0.65)) if things == 1 else float(generator.uniform(0.2, 0.3)) + 0.5 * index
        y = float(generator.uniform(0.35, 0.65))
        poses.append(Pose(x=x, y=y, radius=radius, angle=float(generator.uniform(-0.4, 0.4))))
    grey = float(generator.uniform(0.1, 0.9))
    tint = generator.uniform(-0.12, 0.12, size=3)
    red, green, blue = (float(channel) for channel in np.clip(grey + tint, 0, 1))
    return View(
        poses=tuple(poses),
        background=str(world.backgrounds[int(generator.integers(len(world.backgrounds)))]),
        background_rgb=(red, green, blue),
        light=float(generator.uniform(0.55, 1.25)),
        blurs=int(generator.choice([0, 0, 0, 1])),
        noise=float(generator.choice([0.0, 0.02, 0.04, 0.07])),
        clutter=int(generator.integers(0, 5)),
    )


def draw(world: World, things: Sequence[Thing], view: View, *, generator: np.random.Generator) -> Image:
    """Draw a scene.

    Args:
        world: the colours, and the side of the image in pixels.
        things: the things to draw, as many as the view has poses.
        view: the view of the scene.
        generator: source of randomness for pixel noise, specks and colour jitter.

    Returns:
        uint8 array (side, side, 3), sRGB.

    Raises:
        ValueError: the numbers of things and poses differ.
    """
    side = world.image_size
    centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    x, y = np.meshgrid(centres, centres)
    pixels = _background(view, x, y, generator)
    for _ in range(view.clutter):
        where, radius = generator.random(2), float(generator.uniform(0.01, 0.04))
        pose = Pose(x=float(where[0]), y=float(where[1]), radius=radius, angle=0)
        speck = generator.random(3).astype(np.float32)
        cover = _cover(SHAPES["circle"], pose, x, y, side)[0]
        pixels += cover[..., None] * (speck - pixels)
    for thing, pose in zip(things, view.poses, strict=True):
        cover, across, down = _cover(SHAPES[thing.shape], pose, x, y, side)
        rgb = np.asarray(world.colours[thing.colour], dtype=np.float32) / 255
        rgb = np.clip(rgb + generator.normal(0, 0.05, size=3).astype(np.float32), 0, 1)
        pixels += cover[..., None] * (_surface(thing.texture, rgb, across, down) - pixels)
    pixels *= np.float32(view.light)
    for _ in range(view.blurs):
        pixels = _blur(pixels)
    pixels += generator.normal(0, 1, size=pixels.shape).astype(np.float32) * np.float32(view.noise)
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def draw_class(world: World, name: str, *, generator: np.random.Generator) -> Image:
    """Draw one image of a class name, in a view sampled from `generator`.

    Raises:
        UsageError: the name is not one of this world.
    """
    thing = world.thing(name)
    return draw(world, [thing], sample_view(world, things=1, generator=generator), generator=generator)


def _cover(
    shape: Callable[[Plane, Plane], Plane], pose: Pose, x: Plane, y: Plane, side: int
) -> tuple[Plane, Plane, Plane]:
    """Return the coverage of each pixel, in [0, 1], and the two coordinates relative to the thing, all (side, side)."""
    cos, sin = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
    right, below = (
        (x - np.float32(pose.x)) / np.float32(pose.radius),
        (y - np.float32(pose.y)) / np.float32(pose.radius),
    )
    across, down = cos * right + sin * below, cos * below - sin * right
    distance_in_pixels = shape(across, down) * np.float32(pose.radius * side)
    return np.clip(0.5 - distance_in_pixels, 0, 1).astype(np.float32), across, down


def _surface(texture: str | None, rgb: Plane, across: Plane, down: Plane) -> Plane:
    """Return the colour of each pixel of a surface, (side, side, 3); patterns alternate with a paler or darker tone."""
    if texture is None:
        return np.broadcast_to(rgb, (*across.shape, 3)).astype(np.float32)
    pale = float(rgb.mean()) < 0.75
    other = rgb + (1 - rgb) * np.float32(0.65) if pale else rgb * np.float32(0.45)
    if texture == "striped":
        wave = np.sin(across * np.float32(9) + down * np.float32(4))
    elif texture == "dotted":
        wave = np.cos(across * np.float32(9)) + np.cos(down * np.float32(9)) - np.float32(0.7)
    elif texture == "checkered":
        wave = np.sin(across * np.float32(6)) * np.sin(down * np.float32(6)) * 2
    else:
        raise ValueError(f"unknown texture '{texture}'")
    share = np.clip(0.5 + wave * 2, 0, 1)[..., None]
    return (rgb + share * (other - rgb)).astype(np.float32)


def _background(view: View, x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    """Return the background, (side, side, 3), values about [0, 1]."""
    slope = generator.uniform(-0.25, 0.25, size=2).astype(np.float32)
    shade = slope[0] * (x - np.float32(0.5)) + slope[1] * (y - np.float32(0.5))
    if view.background == "speckled":
        shade = shade + generator.normal(0, 0.12, size=x.shape).astype(np.float32)
    elif view.background == "blotchy":
        for frequency in (6.0, 11.0, 17.0):
            angle, phase = generator.uniform(0, 2 * np.pi, size=2).astype(np.float32)
            bend = np.sin(y * np.float32(frequency) + phase)
            wave = np.sin(np.float32(frequency) * (np.cos(angle) * x + np.sin(angle) * y) + bend)
            shade = shade + np.float32(0.1) * wave
    elif view.background == "lined":
        angle, phase = generator.uniform(0, np.pi, size=2).astype(np.float32)
        shade = shade + np.float32(0.12) * np.sin(np.float32(40) * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    elif view.background != "smooth":
        raise ValueError(f"unknown background '{view.background}'")
    painted: Plane = np.asarray(view.background_rgb, dtype=np.float32) + shade[..., None]
    return painted


def _blur(pixels: Plane) -> Plane:
    """Blur with weights 1-2-1 in both directions; the border is repeated."""
    for axis in (0, 1):
        widths = [(0, 0)] * 3
        widths[axis] = (1, 1)
        padded = np.pad(pixels, widths, mode="edge")
        before, after = (np.take(padded, range(i, i + pixels.shape[axis]), axis=axis) for i in (0, 2))
        pixels = (before + 2 * pixels + after) / np.float32(4)
    return pixels
