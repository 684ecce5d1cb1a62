"""Write the demonstration's data sets as folders of PNG files, in the layout of a user's own data.

    <folder>/shapes/{train,val}/red_circle/0000.png   ID classes
    <folder>/near/blue_circle/0000.png                near OOD: other compositions of the world's words
    <folder>/far-digits/0000.png                      far OOD: scikit-learn's handwritten digits
    <folder>/far-photos/0000.png                      far OOD: crops of scikit-learn's two photographs
    <folder>/novel/purple_star/0000.png               images of new names, for trying a transfer
    <folder>/novel.txt                                those names, one per line

The digits have 8 x 8 pixels and the crops overlap, so both far sets are less varied than their sizes suggest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from sklearn.datasets import load_digits, load_sample_images

from negprompt_cli.data.files.atomic import atomic_folder
from negprompt_cli.demo.drawing import draw_class
from negprompt_cli.demo.world import World, load_world
from negprompt_cli.errors import UsageError

# Each set has its own random stream, so a change in one set does not change the others.
STREAMS = ("train", "val", "near", "novel", "far-digits", "far-photos")


@dataclass(frozen=True, kw_only=True)
class DemoWorld:
    """The paths of the demonstration's data sets; all are folders except `novel_names`, a text file."""

    folder: Path
    shapes: Path
    near: Path
    far_digits: Path
    far_photos: Path
    novel: Path
    novel_names: Path

    @classmethod
    def at(cls, folder: Path) -> "DemoWorld":
        """Return the paths below a folder that `write_world` made."""
        return cls(
            folder=folder,
            shapes=folder / "shapes",
            near=folder / "near",
            far_digits=folder / "far-digits",
            far_photos=folder / "far-photos",
            novel=folder / "novel",
            novel_names=folder / "novel.txt",
        )


def write_world(folder: Path, *, seed: int) -> DemoWorld:
    """Draw all data sets and write them atomically as `folder`.

    Args:
        folder: a folder that does not exist or is empty.
        seed: random seed of all images; equal seeds give equal pixels.

    Raises:
        UsageError: `folder` is a file or is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty. Remove it, or choose another folder for the demonstration's images.")
    world = load_world()
    with atomic_folder(folder) as temporary:
        for relative, image in _all_images(world, seed=seed):
            path = temporary / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            PillowImage.fromarray(image).save(path)
        (temporary / "novel.txt").write_text("".join(f"{name}\n" for name in world.novel), encoding="utf-8")
    return DemoWorld.at(folder)


def _all_images(world: World, *, seed: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield each file's path below the folder, with its pixels (side, side, 3)."""
    streams = {name: np.random.default_rng([seed, 2, number]) for number, name in enumerate(STREAMS)}
    counts = world.images
    drawn = (
        ("train", "shapes/train", world.id, counts.train),
        ("val", "shapes/val", world.id, counts.val),
        ("near", "near", world.near, counts.near),
        ("novel", "novel", world.novel, counts.novel),
    )
    for stream, where, names, each in drawn:
        for name in names:
            for index in range(each):
                image = draw_class(world, name, generator=streams[stream])
                yield f"{where}/{name.replace(' ', '_')}/{index:04d}.png", image
    for index, image in enumerate(digit_images(counts.far_digits, world.image_size, generator=streams["far-digits"])):
        yield f"far-digits/{index:04d}.png", image
    for index, image in enumerate(photo_crops(counts.far_photos, world.image_size, generator=streams["far-photos"])):
        yield f"far-photos/{index:04d}.png", image


def digit_images(count: int, side: int, *, generator: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Yield `count` different handwritten digits, white on black, enlarged to (side, side, 3)."""
    digits = load_digits().images
    for index in generator.choice(len(digits), size=count, replace=False):
        grey = PillowImage.fromarray(np.rint(digits[index] * (255 / 16)).astype(np.uint8))
        yield np.asarray(grey.resize((side, side), PillowImage.Resampling.BICUBIC).convert("RGB"))


def photo_crops(count: int, side: int, *, generator: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Yield `count` square crops of the two photographs in turn, 64 to 256 pixels wide, scaled to (side, side, 3)."""
    photographs = load_sample_images().images
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        height, width, _ = photograph.shape
        size = int(generator.integers(64, 257))
        top, left = int(generator.integers(height - size + 1)), int(generator.integers(width - size + 1))
        crop = PillowImage.fromarray(photograph[top : top + size, left : left + size])
        yield np.asarray(crop.resize((side, side), PillowImage.Resampling.BICUBIC))
