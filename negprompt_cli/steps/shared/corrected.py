"""A person's corrections as training images.

Images that a person moved into id/<class> become training images, in addition to those of the data and `shots`. They replace
training images with the same content, whose labels may differ. A corrected image with the same content as a held-out image
is left out. Images that nobody moved, and images in ood/, are not used.
"""

from pathlib import Path

import numpy as np

from negprompt_cli.data.results.corrections import Corrections
from negprompt_cli.data.results.sorting import folder_name
from negprompt_cli.data.sets.imagepaths import ImagePaths
from negprompt_cli.data.sets.imagesets import ImageSet, NothingHeldOut, joined
from negprompt_cli.data.sets.matching import fold
from negprompt_cli.data.sets.same_content import same_content
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import some_of


def with_corrections(bench: Workbench, images: ImageSet) -> ImageSet:
    """Add the configured corrections to training images; reports how many there are and what is not used.

    Args:
        bench: its configuration names the folder of sorted images, if any.
        images: the training images.

    Raises:
        UsageError: the folder has no record of sorting, or a class that the images do not have.
    """
    found = bench.corrections
    if found is None:
        return images
    folder = found.folder
    moved = _as_images(found, images)
    held_out = same_content(moved.paths, _held_out(bench))
    used = moved.take(np.flatnonzero(~held_out))
    replaced = same_content(images.paths, used.paths)
    facts = {
        "folder": str(folder),
        "images": len(used),
        "classes": {c.key: n for i, c in enumerate(images.classes) if (n := int((used.labels == i).sum()))},
        "replaced": int(replaced.sum()),
        "held_out": int(held_out.sum()),
        "untouched": found.untouched,
        "moved_to_ood": len(found.moved_to_ood),
    }
    message = (
        f"{len(used)} images that were moved by hand in {folder} are training images now. {found.untouched} that were not "
        f"moved and {len(found.moved_to_ood)} that were moved to ood/ are not used."
    )
    if replaced.any():
        message += f" They replace {replaced.sum()} training images with the same content."
    if held_out.any():
        message += f" {held_out.sum()} more have the same content as held-out images and are left out."
    if found.unsorted:
        message += f" {len(found.unsorted)} images directly in id/ have no class and are not used."
    bench.decide(Decision("corrected", message, facts, warning=not len(used)))
    kept = images.take(np.flatnonzero(~replaced))
    as_ood = same_content(kept.paths, found.moved_to_ood)
    if as_ood.any():
        paths = [str(kept.paths[i]) for i in np.flatnonzero(as_ood).tolist()]
        message = (
            f"{len(paths)} training images have the same content as images that were moved to ood/: {some_of(paths, 3)}. "
            "They are used for training, because they are ID images in the data. Remove them from the data if they are OOD."
        )
        bench.decide(Decision("id-images-in-ood", message, {"files": paths}, warning=True))
    return joined([kept, used], images.name) if len(used) else kept


def _as_images(found: Corrections, images: ImageSet) -> ImageSet:
    """Corrected images with labels that index the classes of the training images.

    Raises:
        UsageError: a class folder is not one of these classes.
    """
    folder = found.folder
    by_folder = {folder_name(c.key): i for i, c in reversed(list(enumerate(images.classes)))}
    by_name = {fold(c.name): i for i, c in reversed(list(enumerate(images.classes)))}
    labels, texts, unknown = [], [], []
    for name, paths in found.corrected.items():
        label = by_folder.get(name, by_name.get(fold(name)))
        if label is None:
            unknown.append(name)
        else:
            labels += [label] * len(paths)
            texts += [path.relative_to(folder).as_posix() for path in paths]
    if unknown:
        raise UsageError(
            f"{folder / 'id'} has images in {some_of(unknown)}, which is not a class of {images.spec}. Move them to one of "
            "its classes, or add the class.",
            remedy="new-class",
            folder=folder / "id" / unknown[0],
        )
    return ImageSet(
        spec=str(folder),
        name=folder.name,
        paths=ImagePaths(folder, texts),
        labels=np.array(labels, dtype=np.int64),
        classes=images.classes,
        root=folder,
        layout=f"corrections in {folder}",
        decisions=(),
    )


def _held_out(bench: Workbench) -> list[Path]:
    try:
        return list(bench.id_images("eval").paths)
    except NothingHeldOut:
        return []
