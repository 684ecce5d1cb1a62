"""Distortions of images: fewer pixels, shuffled patches, or only a corner.

A distorted photo keeps its colours and material but does not show the object properly. Distorted ID images can therefore
serve as OOD images where real OOD images must not be used. All functions take and return 8-bit RGB images. Noise, blur and
compression are not included, because a noisy image of a class is still an image of that class.
"""

import numpy as np
from PIL import Image


def shrink(image: Image.Image, *, side: int) -> Image.Image:
    """Scale the short side of an image to `side` pixels (bilinear); smaller images are returned unchanged."""
    short = min(image.size)
    if short <= side:
        return image
    width, height = (max(1, round(length * side / short)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def shuffle_patches(image: Image.Image, *, patches: int, generator: np.random.Generator) -> Image.Image:
    """Shuffle `patches` x `patches` patches of an image; pixels beyond a multiple of `patches` are cut off.

    Raises:
        ValueError: a side has fewer pixels than patches.
    """
    if min(image.size) < patches:
        raise ValueError(f"{image.width} x {image.height} pixels are too few for {patches} x {patches} patches")
    pixels = np.asarray(image)
    height, width = (length // patches for length in pixels.shape[:2])
    cut = pixels[: patches * height, : patches * width]
    # (row, y, column, x, channel) -> (row, column, y, x, channel) and back
    grid = cut.reshape(patches, height, patches, width, 3).swapaxes(1, 2)
    order = generator.permutation(patches * patches)
    shuffled = grid.reshape(-1, height, width, 3)[order].reshape(grid.shape)
    return Image.fromarray(shuffled.swapaxes(1, 2).reshape(cut.shape))


def crop_corner(image: Image.Image, *, share: float, generator: np.random.Generator) -> Image.Image:
    """Cut out a random corner of an image, with `share` (in (0, 1]) of its width and of its height."""
    width, height = (max(1, round(length * share)) for length in image.size)
    right, bottom = generator.integers(2, size=2).tolist()
    left, top = right * (image.width - width), bottom * (image.height - height)
    return image.crop((left, top, left + width, top + height))
