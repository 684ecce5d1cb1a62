"""Draw textures from formulas. They show no objects and serve as far OOD images where real OOD images must not be used.

There are six families, used in turn: noise with a power-law spectrum, noise of one frequency band, stripes, checks, cells
(distance to the nearest of random points) and rings. Each texture is a plane of grey values, which is mapped to a range
between two random colours.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float64]
"""Grey values (side, side) of any range."""


def draw_texture(number: int, *, side: int, generator: np.random.Generator) -> Image.Image:
    """Draw a texture of `side` x `side` pixels, 8-bit RGB.

    Args:
        number: number of the texture, from 0; it selects the family.
        side: width and height in pixels.
        generator: source of randomness for the texture and its colours.
    """
    plane = FAMILIES[number % len(FAMILIES)](side, generator)
    span = np.ptp(plane)
    share = ((plane - plane.min()) / (span or 1.0))[..., None]
    first, second = generator.random((2, 3))
    return Image.fromarray(np.rint(255 * (share * first + (1 - share) * second)).astype(np.uint8))


def _power_noise(side: int, generator: np.random.Generator) -> Plane:
    """Draw noise whose amplitudes fall with a power of the frequency, from fine grain to clouds."""
    frequency = _frequencies(side)
    frequency[0, 0] = 1.0
    return _filtered(frequency ** -generator.uniform(0.4, 1.8), generator)


def _band_noise(side: int, generator: np.random.Generator) -> Plane:
    """Draw noise of about one wavelength, 3 to 33 pixels, in all directions."""
    centre = generator.uniform(0.03, 0.3)
    return _filtered(np.exp(-(((_frequencies(side) - centre) / 0.02) ** 2)), generator)


def _stripes(side: int, generator: np.random.Generator) -> Plane:
    """Draw a sine wave in one direction, with a wavelength of 6 to 60 pixels and a noisy phase."""
    y, x = np.indices((side, side))
    angle, frequency = generator.uniform(0, np.pi), generator.uniform(0.1, 1.0)
    phase = frequency * (np.cos(angle) * x + np.sin(angle) * y)
    waves: Plane = np.sin(phase + generator.normal(0, 0.3, phase.shape))
    return waves


def _checks(side: int, generator: np.random.Generator) -> Plane:
    """Draw a noisy chequerboard with fields of 4 to 23 pixels."""
    y, x = np.indices((side, side))
    width = generator.integers(4, 24)
    return (x // width + y // width) % 2 + generator.normal(0, 0.1, (side, side))


def _cells(side: int, generator: np.random.Generator) -> Plane:
    """Draw the distance to the nearest of 10 to 199 random points."""
    points = generator.random((generator.integers(10, 200), 2)) * side
    y, x = np.indices((side, side))
    squares = (x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2
    nearest: Plane = np.sqrt(squares.min(axis=-1))
    return nearest


def _rings(side: int, generator: np.random.Generator) -> Plane:
    """Draw waves around a random point, with a wavelength of 6 to 60 pixels and a noisy phase."""
    y, x = np.indices((side, side))
    across, down = generator.random(2) * side
    phase = generator.uniform(0.1, 1.0) * np.hypot(x - across, y - down)
    waves: Plane = np.sin(phase + generator.normal(0, 0.3, phase.shape))
    return waves


def _frequencies(side: int) -> Plane:
    """Return the frequencies (side, side) of a spectrum, in cycles per pixel."""
    steps = np.fft.fftfreq(side)
    frequencies: Plane = np.hypot(steps[:, None], steps)
    return frequencies


def _filtered(amplitudes: Plane, generator: np.random.Generator) -> Plane:
    """Draw white noise and multiply its spectrum by `amplitudes`."""
    noise = generator.standard_normal(amplitudes.shape)
    filtered: Plane = np.fft.ifft2(np.fft.fft2(noise) * amplitudes).real
    return filtered


FAMILIES: tuple[Callable[[int, np.random.Generator], Plane], ...] = (
    _power_noise,
    _band_noise,
    _stripes,
    _checks,
    _cells,
    _rings,
)
"""The families of textures, in the order of their use."""
