"""Distortions that make images of another kind out of images: fewer pixels, patches out of order, a corner only.

Each changes what a photograph of an object is like and keeps its colours and material, so that the results can play OOD
images where no other images may be looked at. All take and return 8-bit RGB. Leaves out: noise, blur and compression, under
which an image of a class stays one.
"""

import numpy as np
from PIL import Image


def shrink(image: Image.Image, *, side: int) -> Image.Image:
    """The image with its short side `side` pixels wide, bilinear; one that is no larger is returned as it is."""
    short = min(image.size)
    if short <= side:
        return image
    width, height = (max(1, round(length * side / short)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def shuffle_patches(image: Image.Image, *, patches: int, generator: np.random.Generator) -> Image.Image:
    """`patches` x `patches` patches of the image in random order; pixels beyond a multiple of `patches` are cut off.

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
    """A corner of the image, each of the four alike likely, with `share` (in (0, 1]) of its width and of its height."""
    width, height = (max(1, round(length * share)) for length in image.size)
    right, bottom = generator.integers(2, size=2).tolist()
    left, top = right * (image.width - width), bottom * (image.height - height)
    return image.crop((left, top, left + width, top + height))
