"""Images of the classes that are added to an artifact, and held-out images of its own classes.

Images of a new class are split in half as usual: one half adapts the score, and the other chooses the threshold. Held-out
images of an old class are taken from the new images if these have the class, else from the artifact's training data. No
held-out image has the same content as a training image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from negprompt_cli.data.results.artifacts import Prompts
from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.data.sets.imagesets import (
    ImageSet,
    class_places,
    files_digest,
    joined,
    load_image_set,
    match_classes,
)
from negprompt_cli.data.sets.one_class import one_class
from negprompt_cli.data.sets.same_content import same_content
from negprompt_cli.data.sets.spec import Spec, parse_spec
from negprompt_cli.decisions import Decision
from negprompt_cli.errors import UsageError, first_line
from negprompt_cli.steps.shared.training_data import find_training_images
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import some_of


@dataclass(frozen=True, eq=False)
class AddedClasses:
    """The images of an extension; all labels index `classes`.

    `classes`: K classes, the artifact's and then the new ones. `added`: (K,) whether the contexts were learned without a
    class. `training`: images of old and new classes for the statistics of the score; None if the artifact's training images
    cannot be found. `held_out`: images of every class for the threshold.
    """

    classes: tuple[ClassLabel, ...]
    added: NDArray[np.bool_]
    training: ImageSet | None
    held_out: ImageSet


def find_added_classes(bench: Workbench, source: Prompts, specs: Sequence[Spec]) -> AddedClasses:
    """Find the images of new classes and held-out images of the old ones; opens no image.

    Args:
        bench: its configured data are the artifact's training data.
        source: the artifact to extend.
        specs: images of new classes, and optionally of old ones. A set without classes is one class.

    Raises:
        UsageError: images are missing, there is no new class, or a class has no held-out images.
    """
    known = len(source.classes)
    given = [_class_images(bench, spec, "eval") for spec in specs]
    classes = _extended(source, given)
    if len(classes) == known:
        raise UsageError(
            f"{', '.join(spec.text for spec in specs)} has no new class: the artifact already has all of them. To choose a "
            "new threshold, calibrate the artifact.",
            remedy="calibrate",
        )
    held_out = joined([match_classes(images, classes) for images in given], "held-out images")
    fresh = joined([match_classes(_class_images(bench, spec, "train"), classes) for spec in specs], "new classes")
    for text in source.config.data.added:
        held_out, fresh = _with_added_before(bench, parse_spec(text), held_out, fresh)
    held_out = _with_old_classes(bench, held_out, known)
    old = _trained_on(bench, source, classes)
    trained = set(range(known)) if old is None else set(old.labels.tolist())
    new = _few(bench, _only(fresh, sorted(set(range(len(classes))) - trained)))
    training = new if old is None else joined([old, new], "training images")
    repeated = same_content(held_out.paths, training.paths)
    if repeated.any():
        message = f"{repeated.sum()} held-out images have the same content as training images and are left out."
        facts = {"images": int(repeated.sum()), "role": "eval"}
        bench.decide(Decision("duplicates-left-out", message, facts, warning=True))
        held_out = held_out.take(np.flatnonzero(~repeated))
    if absent := [c.name for i, c in enumerate(classes) if not (held_out.labels == i).any()]:
        raise UsageError(
            f"{len(absent)} of the {len(classes)} classes have no held-out images: {some_of(absent)}. A threshold chosen "
            "without them may not fit their images. Add images of these classes.",
            remedy="old-classes",
        )
    added = np.ones(len(classes), dtype=bool)
    if old is not None:
        added[np.unique(old.labels)] = False
    return AddedClasses(classes, added, None if old is None else training, held_out)


def _class_images(bench: Workbench, spec: Spec, role: Literal["train", "eval"]) -> ImageSet:
    """Images of a SPEC with their classes; a set without classes becomes one class."""
    data = bench.config.data
    where = {"data_root": Path(data.root), "catalogue": Path(data.catalogue) if data.catalogue else None}
    listed = load_image_set(spec, role="ood", limit=data.limit, seed=bench.config.seed, **where)  # type: ignore[arg-type]
    if listed.classes:
        return bench.image_set(spec, role)
    images = one_class(listed, spec, role)
    for decision in images.decisions:
        bench.decide(decision)
    return images


def _extended(source: Prompts, given: Sequence[ImageSet]) -> tuple[ClassLabel, ...]:
    """The artifact's classes and the new ones of the images.

    Raises:
        UsageError: a new class has the same key as another; rows and folders identify classes by key.
    """
    classes = source.classes
    for images in given:
        places = class_places(images.classes, classes)
        new = [label for label, place in zip(images.classes, places.tolist(), strict=True) if place < 0]
        for label in new:
            if (same := next((c for c in classes if c.key == label.key), None)) is not None:
                raise UsageError(
                    f"The new class {label.name!r} of {images.spec} is in a folder called {label.key}, which is also the "
                    f"key of the artifact's class {same.name!r}. Rename the folder."
                )
        classes = (*classes, *new)
    return classes


def _with_added_before(bench: Workbench, spec: Spec, held_out: ImageSet, fresh: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Add images of an earlier extension, for classes that have no held-out images yet, to the held-out and other images.

    If they are missing, the error about classes without held-out images reports it.
    """
    try:
        parts = [match_classes(_class_images(bench, spec, role), held_out.classes) for role in ("eval", "train")]
    except UsageError:
        return held_out, fresh
    absent = sorted(set(parts[0].labels.tolist()) - set(held_out.labels.tolist()))
    found = [_only(part, absent) for part in parts]
    return joined([held_out, found[0]], held_out.name), joined([fresh, found[1]], fresh.name)


def _with_old_classes(bench: Workbench, held_out: ImageSet, known: int) -> ImageSet:
    """Add held-out images of those of the first `known` classes that have none, from the configured data.

    Raises:
        UsageError: these data are missing.
    """
    absent = sorted(set(range(known)) - set(held_out.labels.tolist()))
    if not absent:
        return held_out
    try:
        images = bench.id_images("eval")
    except UsageError as error:
        raise UsageError(
            f"The threshold needs held-out images of the artifact's own classes too. {error}", remedy="old-classes"
        ) from error
    return joined([_only(match_classes(images, held_out.classes), absent), held_out], held_out.name)


def _trained_on(bench: Workbench, source: Prompts, classes: tuple[ClassLabel, ...]) -> ImageSet | None:
    """The artifact's training images, or None, with a message, if they cannot be found."""
    spec = bench.config.data.spec
    try:
        images = match_classes(find_training_images(bench), classes)
    except UsageError as error:
        message = (
            "The artifact's training images cannot be found, so the score's statistics of ID images are adapted to the new "
            f"classes by class names alone. ({first_line(error)})"
        )
        bench.decide(Decision("training-data-changed", message, {"spec": spec, "found": False}))
        return None
    if source.training and source.training[-1].files_sha256 != files_digest(images.paths, images.root):
        message = (
            f"The training images of {spec} have changed since the artifact was trained: files were added, removed or "
            "changed. Held-out images may have been training images, so the threshold may accept fewer new images than it "
            "should. The score's statistics of ID images are adapted to the new classes by class names alone."
        )
        bench.decide(Decision("training-data-changed", message, {"spec": spec, "found": True}, warning=True))
        return None
    return images


def _few(bench: Workbench, images: ImageSet) -> ImageSet:
    """At most as many images of each class as in the artifact's training, so that new classes do not outweigh the old."""
    shots = bench.config.data.shots
    return images.take(images.few_shot(shots, seed=bench.config.seed).indices) if shots else images


def _only(images: ImageSet, labels: Sequence[int]) -> ImageSet:
    return images.take(np.flatnonzero(np.isin(images.labels, list(labels))))
