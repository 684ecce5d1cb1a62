"""Estimates for an experiment before it runs: images on disk, images to encode, and training steps.

Images on disk are counted; the numbers of others are those of the catalogue. Speeds and sizes are the facts of
`data/studies/costs`. Nothing is measured, so the texts say "about" and "at most".
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from negprompt_cli.config import Config, ScheduleConfig
from negprompt_cli.data.sets.catalogue import Entry, load_catalogue
from negprompt_cli.data.sets.layouts import Role
from negprompt_cli.data.sets.spec import Spec
from negprompt_cli.data.studies.costs import costs
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.shared.schedules import epochs_of
from negprompt_cli.steps.shared.workbench import Workbench


@dataclass(frozen=True)
class Training:
    """One training: its name, its largest number of steps, and the number of prompts that each step encodes."""

    name: str
    steps: int
    prompts: int


@dataclass(frozen=True)
class Sizes:
    """Images and classes of an experiment's data sets.

    `images`, `classes`: numbers by SPEC and role; unknown ones are absent.
    """

    images: dict[tuple[str, Role], int]
    classes: dict[str, int]


def data_sizes(needs: Iterable[tuple[Spec, Role]], bench: Workbench) -> Sizes:
    """Count the images on disk, and look up the others in the catalogue."""
    data = bench.config.data
    sets = load_catalogue(Path(data.root), Path(data.catalogue) if data.catalogue else None).sets
    images: dict[tuple[str, Role], int] = {}
    classes: dict[str, int] = {}
    for spec, role in needs:
        entry = sets.get(spec.base.lower()) if not spec.selector else None
        try:
            found = bench.image_set(spec, role)
            images[spec.text, role] = len(found)
            classes.setdefault(spec.text, len(found.classes))
        except UsageError:
            count = _published(entry, role)
            if count is not None:
                images[spec.text, role] = count
        if entry is not None and entry.classes is not None:
            classes.setdefault(spec.text, entry.classes)
    return Sizes(images, classes)


def training(name: str, config: Config, schedule: ScheduleConfig, contexts: int, sizes: Sizes) -> Training | None:
    """A training's size, or None if the numbers of classes or images are unknown.

    Args:
        name: its name.
        config: its configuration.
        schedule: the schedule of its stage.
        contexts: prompts per class.
        sizes: sizes of the data sets.
    """
    spec = config.data.spec
    classes = sizes.classes.get(spec)
    if classes is None:
        return None
    share = config.data.train_classes
    if share.endswith("%"):
        classes = max(1, int(classes * float(share[:-1]) / 100))
    images = config.data.shots * classes or sizes.images.get((spec, "train"))
    if images is None:
        return None
    epochs = epochs_of(schedule, images=images, classes=classes)
    groups = math.ceil(classes / schedule.classes_per_step) if schedule.classes_per_step else 1
    per_epoch = max(groups, math.ceil(images / schedule.sgd.batch_size)) if schedule.sgd else groups
    return Training(name, epochs * per_epoch, contexts * math.ceil(classes / groups))


def estimate_lines(
    needs: Sequence[tuple[Spec, Role]], sizes: Sizes, trainings: Sequence[Training | None], config: Config
) -> list[str]:
    """The estimates as lines of text.

    Args:
        needs: the data sets with their roles.
        sizes: sizes of the data sets.
        trainings: sizes of the trainings; None if unknown.
        config: its images per class are used.
    """
    facts = costs()
    unknown = sorted({spec.text for spec, role in needs if (spec.text, role) not in sizes.images})
    known = sum(sizes.images.values())
    encoded = 0
    for spec, role in needs:
        count = sizes.images.get((spec.text, role), 0)
        if role == "train" and config.data.shots:
            few = config.data.shots * sizes.classes.get(spec.text, 0)
            count = min(count, few) if count else few
        encoded += count
    limit = config.data.limit
    if limit is not None:
        encoded = min(encoded, limit * len(needs))
    paces = ", ".join(f"{_duration(encoded / pace)} at {pace} images/s" for pace in facts.encoding_paces)
    but = f", without {', '.join(unknown)}, whose size is unknown" if unknown else ""
    lines = [
        f"data: about {_size(known * facts.bytes_per_image)} for {known} images{but}",
        f"images to encode: {encoded}{but}; {paces}",
        f"feature cache: {_size(encoded * facts.bytes_per_feature)}",
    ]
    for one in trainings:
        if one is not None:
            time = _duration(one.steps * one.prompts * facts.seconds_per_prompt)
            lines.append(
                f"{one.name}: at most {one.steps} steps of {one.prompts} prompts, {time} on one CPU thread with the text "
                "tower of a ViT-B/16"
            )
    return lines


def notes_of(needs: Iterable[tuple[Spec, Role]], config: Config) -> dict[str, str]:
    """The catalogue's notes on the data sets, by name."""
    data = config.data
    sets = load_catalogue(Path(data.root), Path(data.catalogue) if data.catalogue else None).sets
    names = dict.fromkeys(spec.base.lower() for spec, _ in needs)
    return {name: notes for name in names if name in sets and (notes := sets[name].notes)}


def _published(entry: Entry | None, role: Role) -> int | None:
    if entry is None:
        return None
    return entry.images.train if role == "train" else entry.images.eval


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{max(1, round(count / 1e6))} MB"


def _duration(seconds: float) -> str:
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.0f} days"
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{max(1, round(seconds / 60))} min"
