"""Leave-classes-out: a small OOD problem made from the training images of one data set, for choosing settings.

    <into>/id/train/<class>/000012.JPEG    images of the kept classes to train on
    <into>/id/val/<class>/000007.JPEG      held-out images of the same classes: ID
    <into>/id/classnames.txt               the names of the kept classes
    <into>/near/000345.JPEG                OOD: images of the left-out classes
    <into>/down/000345.png                 OOD: the same images, scaled to a short side of 32 pixels
    <into>/shuffle/000345.png              OOD: the same and the held-out images, as 4 x 4 patches in random order
    <into>/corner/000345.png               OOD: the same, only 45 % of width and height at a random corner
    <into>/drawn/000000.png                OOD: 150 textures drawn from formulas
    <into>/leave-out.json                  how the problem was made

The number of an image is its index in the training images of the data set; it is the same in all folders. Evaluation images
and other data sets are never used, so settings chosen on such a problem depend on no OOD image and no test image. Near-
duplicates among the training images are not detected and may be on both sides.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from negprompt_cli import schemas
from negprompt_cli._version import __version__
from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.data.files.atomic import atomic_folder
from negprompt_cli.data.prepare.distortions import crop_corner, shrink, shuffle_patches
from negprompt_cli.data.prepare.textures import draw_texture
from negprompt_cli.data.results.sorting import folder_name
from negprompt_cli.data.sets.filekinds import is_image_name
from negprompt_cli.data.sets.imagesets import ImageSet, files_digest
from negprompt_cli.data.sets.packed import is_item
from negprompt_cli.data.sets.sampling import Indices, class_generator
from negprompt_cli.errors import NegPromptError, UsageError, did_you_mean
from negprompt_cli.progress import Progress, Task
from negprompt_cli.wording import some_of

RECORD = "leave-out.json"
KINDS = ("near", "down", "shuffle", "corner", "drawn")
"""The kinds of OOD images, which are also the names of their folders."""

SHORT_SIDE = 32
PATCHES = 4
CORNER = 0.45
TEXTURES = 150
TEXTURE_SIDE = 96


@dataclass(frozen=True, eq=False)
class Division:
    """The division of a data set's classes and images; the three sets of images are disjoint."""

    kept: tuple[int, ...]
    """Indices of the kept classes, ascending."""
    left_out: tuple[int, ...]
    """Indices of the left-out classes, ascending."""
    train: Indices
    """Images of kept classes to train on, ascending."""
    held_out: Indices
    """The other images of kept classes, ascending."""
    unseen: Indices
    """Images of left-out classes, ascending."""


@dataclass(frozen=True)
class LeftOut:
    """A problem that was made: its folder, and the content of its leave-out.json."""

    folder: Path
    document: dict[str, Any]

    @property
    def id_spec(self) -> str:
        """The SPEC of the ID images."""
        return str(self.folder / "id")

    @property
    def ood_specs(self) -> list[str]:
        """The SPECs of the OOD sets."""
        return [str(self.folder / kind) for kind in self.document["kinds"]]


def divide(images: ImageSet, *, share: float, held_out: float, seed: int) -> Division:
    """Draw the left-out classes, and the held-out images of the others.

    Args:
        images: labelled training images.
        share: share of classes to leave out, in (0, 1); the number is rounded.
        held_out: share of each kept class's images to hold out, in (0, 1). The number is rounded; at least one image is
            held out and at least one is left for training.
        seed: random seed, at least 0.

    Raises:
        UsageError: a share is out of range, the seed is negative, there are too few classes, or a class has a single image.
    """
    for name, value in (("share of left-out classes", share), ("share of held-out images", held_out)):
        if not 0 < value < 1:
            raise UsageError(f"The {name} must be between 0 and 1, got {value:g}.")
    if not images.classes:
        raise UsageError(f"{images.spec} has no classes, so none can be left out ({images.layout}).")
    count = len(images.classes)
    out = round(share * count)
    if out < 1 or count - out < 2:
        raise UsageError(
            f"A share of {share:g} of the {count} classes of {images.spec} means {out} left out and {count - out} kept. At "
            "least one class must be left out and at least two must be kept.",
            remedy="leave-out-share",
        )
    order = class_generator(seed, "classes left out", "").permutation(count)
    left, kept = np.sort(order[:out]), np.sort(order[out:])
    members = {c: np.flatnonzero(images.labels == c) for c in kept.tolist()}
    single = [images.classes[c].key for c, found in members.items() if len(found) < 2]
    if single:
        raise UsageError(
            f"{len(single)} classes have a single image, so no image can be held out: {some_of(single)}. Add images, or "
            "select the other classes with '#'."
        )
    train, held = [], []
    for c, found in members.items():
        drawn = class_generator(seed, "held out", images.classes[c].key).permutation(found)
        size = min(max(1, round(held_out * len(found))), len(found) - 1)
        held.append(drawn[:size])
        train.append(drawn[size:])
    return Division(
        tuple(kept.tolist()),
        tuple(left.tolist()),
        np.sort(np.concatenate(train)),
        np.sort(np.concatenate(held)),
        np.flatnonzero(np.isin(images.labels, left)),
    )


def parse_kinds(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of kinds into the order of `KINDS`.

    Raises:
        UsageError: a kind is unknown, or none is named.
    """
    wanted = {part.strip() for part in text.split(",")} - {""}
    unknown = sorted(wanted - set(KINDS))
    if unknown:
        raise UsageError(f"There is no kind {unknown[0]!r} of OOD images.{did_you_mean(unknown[0], KINDS)}")
    if not wanted:
        raise UsageError(f"No kind of OOD images is named. Known kinds: {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in wanted)


def leave_out(
    images: ImageSet,
    into: Path,
    *,
    share: float,
    held_out: float,
    seed: int,
    kinds: Sequence[str] = KINDS,
    copy: bool = False,
    overwrite: bool = False,
    pixels: PixelsConfig = PixelsConfig(),  # noqa: B008 - it is frozen
    progress: Progress,
) -> LeftOut:
    """Make a leave-classes-out problem atomically in the folder `into`.

    Args:
        images: the training images of a data set (`load_image_set` with role "train").
        into: a folder that does not exist or is empty, or with `overwrite` an earlier problem.
        share: share of classes to leave out, as in `divide`.
        held_out: share of images to hold out, as in `divide`.
        seed: random seed; each kind has its own random stream.
        kinds: some of `KINDS`.
        copy: copy image files instead of making symbolic links to their absolute paths. Images without a file or without
            an image suffix are always written as PNG.
        overwrite: whether an earlier problem may be replaced.
        pixels: how values of distorted images become RGB.
        progress: receives progress messages.

    Raises:
        UsageError: as `divide`; `into` must not be replaced; or a class name cannot be the name of a folder.
        BrokenImage: an image to be distorted cannot be read.
        NegPromptError: the problem cannot be written.
    """
    _refuse_existing(into, overwrite=overwrite)
    division = divide(images, share=share, held_out=held_out, seed=seed)
    sources = {
        "near": division.unseen,
        "down": division.unseen,
        "shuffle": np.sort(np.concatenate([division.unseen, division.held_out])),
        "corner": division.unseen,
        "drawn": np.arange(TEXTURES),
    }
    counts = {"train": len(division.train), "val": len(division.held_out)}
    counts |= {kind: len(sources[kind]) for kind in kinds}
    document = {
        "schema": schemas.LEAVE_OUT,
        "spec": images.spec,
        "layout": images.layout,
        "images_sha256": files_digest(images.paths, images.root),
        "seed": seed,
        "share": share,
        "held_out": held_out,
        "kinds": list(kinds),
        "images": counts,
        "classes": {
            "kept": [images.classes[c].key for c in division.kept],
            "left_out": [images.classes[c].key for c in division.left_out],
        },
        "versions": {"negprompt": __version__, "numpy": np.__version__, "pillow": PIL.__version__},
    }
    try:
        with (
            atomic_folder(into, replacing=overwrite) as folder,
            progress.task("Making images", sum(counts.values()), "images") as task,
        ):
            _write_id(folder / "id", images, division, copy=copy, task=task)
            for kind in kinds:
                generator = class_generator(seed, "kind of OOD images", kind)
                small = _write_kind(
                    folder / kind, images, sources[kind], generator=generator, copy=copy, pixels=pixels, task=task
                )
                if small:
                    progress.warn(
                        f"{small} images have a side of {SHORT_SIDE} pixels or less and are unchanged in {kind}/"
                    )
            (folder / RECORD).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise NegPromptError(
            f"Cannot write {into}: {error.strerror or error}. An existing folder is unchanged. Free disk space or choose "
            "another path.",
            remedy="copy",
        ) from error
    return LeftOut(into, document)


def _refuse_existing(into: Path, *, overwrite: bool) -> None:
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return
    if not (into / RECORD).is_file():
        raise UsageError(f"{into} exists and is not a leave-classes-out problem. Choose another path, or remove it.")
    if not overwrite:
        raise UsageError(f"{into} exists.", remedy="overwrite")


def _folders(images: ImageSet, division: Division) -> dict[int, str]:
    """Return the folder name of each kept class."""
    folders = {c: folder_name(images.classes[c].key) for c in division.kept}
    # A folder "images" would be read as a folder above the classes.
    usable = set(folders.values()) - {"images"}
    if len(usable) < len(folders):
        raise UsageError(
            f"Only {len(usable)} of the {len(folders)} kept classes of {images.spec} have names that can be separate "
            "folders. Give the images as class folders, or select other classes with '#'."
        )
    return folders


def _write_id(folder: Path, images: ImageSet, division: Division, *, copy: bool, task: Task) -> None:
    folders = _folders(images, division)
    for part, chosen in (("train", division.train), ("val", division.held_out)):
        for name in folders.values():
            (folder / part / name).mkdir(parents=True, exist_ok=True)
        for number in chosen.tolist():
            place = folder / part / folders[int(images.labels[number])] / f"{number:06d}.png"
            _put(images.paths[number], place, copy=copy)
            task.advance()
    lines = [f"{name}\t{images.classes[c].name}\n" for c, name in folders.items()]
    (folder / "classnames.txt").write_text("".join(lines), encoding="utf-8")


def _write_kind(
    folder: Path,
    images: ImageSet,
    numbers: Indices,
    *,
    generator: np.random.Generator,
    copy: bool,
    pixels: PixelsConfig,
    task: Task,
) -> int:
    """Write one kind of OOD images, given by the folder's name; return how many images are too small to be scaled."""
    folder.mkdir()
    small = 0
    for number in numbers.tolist():
        place = folder / f"{number:06d}.png"
        if folder.name == "near":
            _put(images.paths[number], place, copy=copy)
        elif folder.name == "drawn":
            draw_texture(number, side=TEXTURE_SIDE, generator=generator).save(place)
        else:
            image = open_rgb(images.paths[number], pixels)
            small += folder.name == "down" and min(image.size) <= SHORT_SIDE
            try:
                made = _distorted(folder.name, image, generator)
            except ValueError as error:
                message = f"{images.paths[number]}: {error}."
                raise UsageError(message, remedy="leave-out-kinds", kind=folder.name) from error
            made.save(place)
        task.advance()
    return small


def _put(source: Path, place: Path, *, copy: bool) -> None:
    """Link or copy an image file to `place` with its own suffix; other images are written to `place` as PNG."""
    if is_item(source) or not is_image_name(source.name):
        open_rgb(source).save(place)
    elif copy:
        shutil.copyfile(source, place.with_suffix(source.suffix))
    else:
        place.with_suffix(source.suffix).symlink_to(source.absolute())


def _distorted(kind: str, image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Distort an image as one of the kinds."""
    if kind == "down":
        return shrink(image, side=SHORT_SIDE)
    if kind == "shuffle":
        return shuffle_patches(image, patches=PATCHES, generator=generator)
    return crop_corner(image, share=CORNER, generator=generator)
