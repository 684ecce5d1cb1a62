"""Use a flat folder or a list of paths as the images of one class, named after the folder or list."""

from dataclasses import replace
from typing import Literal

import numpy as np

from negprompt_cli.data.sets.classnames import class_label
from negprompt_cli.data.sets.imagesets import SPLIT_SEED, ImageSet, NothingHeldOut
from negprompt_cli.data.sets.sampling import half
from negprompt_cli.data.sets.spec import Spec, user_path
from negprompt_cli.decisions import Decision


def one_class(images: ImageSet, spec: Spec, role: Literal["train", "eval"]) -> ImageSet:
    """Return half of the images of an unlabelled set, as one class with the name of its folder or list.

    The halves are the same as if the images were a class folder.

    Args:
        images: images without classes.
        spec: their SPEC.
        role: the half to return.

    Raises:
        NothingHeldOut: the requested half is empty, because there is a single image.
    """
    base = user_path(spec.base)
    key = base.stem if base.is_file() else base.resolve().name
    label = class_label(key)
    part = half(len(images), key, seed=SPLIT_SEED, first=role == "train")
    if not len(part):
        raise NothingHeldOut(f"{images.spec} has a single image, so no image is held out. Add images.")
    purpose = "training" if role == "train" else "evaluation"
    said = (
        f"{images.spec} has no class folders: its images are one class, {label.name!r}, split in half "
        f"(deterministically); the {purpose} half has {len(part)} images."
    )
    facts = {"spec": images.spec, "role": role, "images": len(part), "share": 0.5, "seed": SPLIT_SEED, "class": key}
    labels = np.zeros(len(images), dtype=np.int64)
    labelled = replace(images, labels=labels, classes=(label,), halved=True)
    return labelled.take(part, Decision("split", said, facts))
