"""Choose images: few-shot samples, halves of a class, and limits.

Each class has its own generator, seeded by (seed, purpose, class key), and its images are ordered by their relative POSIX
paths. So a choice does not depend on the order of the file system, the number of workers, or the other classes. The global
random state is not used.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.data.sets.spec import parse_ranges
from negprompt_cli.errors import UsageError

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FewShot:
    """A few-shot sample."""

    indices: Indices
    """(m,) indices of the chosen images, ascending."""
    short: dict[str, int]
    """For each class with fewer images than shots its key and number of images (all of them are used)."""


def class_generator(seed: int, purpose: str, key: str) -> np.random.Generator:
    """Return the generator for one class and one purpose.

    Raises:
        UsageError: the seed is negative.
    """
    if seed < 0:
        raise UsageError(f"The seed must not be negative, got {seed}.")
    digest = hashlib.sha256(f"{purpose}\0{key}".encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def _by_class(labels: Indices, paths: Sequence[str]) -> dict[int, Indices]:
    """Return the indices of each label's images, sorted by path."""
    order = np.asarray(sorted(range(len(paths)), key=paths.__getitem__), dtype=np.int64)
    grouped = order[np.argsort(labels[order], kind="stable")]
    values, starts = np.unique(labels[grouped], return_index=True)
    return dict(zip(values.tolist(), np.split(grouped, starts[1:]), strict=True)) if len(grouped) else {}


def few_shot(
    labels: Indices, paths_relative: Sequence[str], *, class_keys: Sequence[str], shots: int, seed: int
) -> FewShot:
    """Draw `shots` images of every class.

    Args:
        labels: (n,) class indices; images labelled -1 are never drawn.
        paths_relative: (n,) POSIX paths relative to the data set, which order the images of a class.
        class_keys: the key of each class.
        shots: images per class, at least 1. All images of a class with fewer are chosen.
        seed: random seed, at least 0.

    Raises:
        UsageError: `shots` is below 1, or the seed is negative.
    """
    if shots < 1:
        raise UsageError(f"The number of shots must be at least 1, got {shots}.")
    chosen: list[Indices] = []
    short: dict[str, int] = {}
    groups = _by_class(labels, paths_relative)
    for label, key in enumerate(class_keys):
        images = groups.get(label, np.empty(0, dtype=np.int64))
        if len(images) < shots:
            short[key] = len(images)
        chosen.append(class_generator(seed, "shots", key).permutation(images)[:shots])
    return FewShot(np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64), short)


def half(count: int, key: str, *, seed: int, first: bool) -> Indices:
    """Return one of two disjoint halves of `count` images of class `key`; the first is larger by one if `count` is odd.

    Returns:
        Ascending indices.
    """
    order = class_generator(seed, "half", key).permutation(count)
    middle = (count + 1) // 2
    return np.sort(order[:middle] if first else order[middle:])


def limit(
    labels: Indices, paths_relative: Sequence[str], *, class_keys: Sequence[str], count: int, seed: int
) -> Indices:
    """Choose `count` images with balanced classes: (min(count, n),) ascending indices.

    One image of every class is chosen before a second of any class, and so on; the classes of the last round are drawn at
    random. Unlabelled images (-1) count as one class.

    Raises:
        UsageError: `count` is below 1, or the seed is negative.
    """
    if count < 1:
        raise UsageError(f"The limit must be at least 1, got {count}.")
    if count >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    groups = _by_class(labels, paths_relative)
    turn_of_class = class_generator(seed, "limit classes", "").permutation(len(groups))
    images, rounds, turns = [], [], []
    for turn, (label, members) in zip(turn_of_class.tolist(), groups.items(), strict=True):
        key = class_keys[label] if label >= 0 else ""
        images.append(class_generator(seed, "limit", key).permutation(members))
        rounds.append(np.arange(len(members)))
        turns.append(np.full(len(members), turn))
    order = np.lexsort((np.concatenate(turns), np.concatenate(rounds)))
    return np.sort(np.concatenate(images)[order[:count]])


def select_train_classes(classes: Sequence[ClassLabel], text: str) -> tuple[int, ...]:
    """Choose the classes to train on, if the others are used for transfer (open vocabulary).

    Forms: `10%` means the first floor(k / 10) of k classes in label order, as in the official NegPrompt code;
    `10%:random:SEED` the same number drawn at random; `0-99,120` index ranges; `all` every class.

    Returns:
        Ascending indices into `classes`, at least one.

    Raises:
        UsageError: the text has another form, the share gives no class, or an index does not exist.
    """
    wanted = text.strip()
    if wanted == "all":
        return tuple(range(len(classes)))
    if "%" not in wanted:
        return parse_ranges(wanted, count=len(classes), what="the data set")
    share, _, rest = wanted.partition("%")
    try:
        part = Fraction(share) / 100
        count = int(part * len(classes))
        seed = int(rest.removeprefix(":random:")) if rest else None
    except (ValueError, ZeroDivisionError):
        message = "Write 10%, 10%:random:SEED, index ranges such as 0-99, or all."
        raise UsageError(f"Training classes {text!r} are not understood. {message}") from None
    if count < 1 or part > 1:
        raise UsageError(
            f"Training classes {text!r} are {count} of {len(classes)} classes. Choose at least one and at most all."
        )
    if seed is None:
        return tuple(range(count))
    return tuple(np.sort(class_generator(seed, "train classes", "").permutation(len(classes))[:count]).tolist())
