"""Choosing images: few-shot samples, halves of a class, and limits.

Every choice is made class by class with a generator of its own, seeded by (seed, purpose, class key), over the class's
images in the order of their relative POSIX paths. So it does not depend on the file system's order, on how many
workers there are, or on which other classes there are. No global random state is touched.
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
    """Key of each class with fewer images than shots, and how many it has (all of them are used)."""


def class_generator(seed: int, purpose: str, key: str) -> np.random.Generator:
    """The generator for one class and one purpose.

    Raises:
        UsageError: a negative seed.
    """
    if seed < 0:
        raise UsageError(f"The seed must not be negative, got {seed}.")
    digest = hashlib.sha256(f"{purpose}\0{key}".encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def _by_class(labels: Indices, paths: Sequence[str]) -> dict[int, Indices]:
    """Indices of each label's images, sorted by path."""
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
        shots: images per class, at least 1. A class with fewer gives all it has.
        seed: not negative.

    Raises:
        UsageError: shots below 1 or a negative seed.
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
    """One of two disjoint halves of `count` images of class `key`: the first (the larger by one if odd) or the other.

    Returns:
        Ascending indices.
    """
    order = class_generator(seed, "half", key).permutation(count)
    middle = (count + 1) // 2
    return np.sort(order[:middle] if first else order[middle:])


def limit(
    labels: Indices, paths_relative: Sequence[str], *, class_keys: Sequence[str], count: int, seed: int
) -> Indices:
    """Choose `count` images with the classes as even as they allow: (min(count, n),) ascending indices.

    Every class gives its first image before any gives its second, and so on; which classes get the last places is
    drawn too. Unlabelled images (-1) count as one class.

    Raises:
        UsageError: count below 1 or a negative seed.
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
    """The classes to train on when the rest is left for transfer (open vocabulary).

    Forms: `10%` is the first floor(k / 10) of k classes in label order, as in the official NegPrompt code;
    `10%:random:SEED` as many drawn at random; `0-99,120` index ranges; `all`.

    Returns:
        Ascending indices into `classes`, at least one.

    Raises:
        UsageError: another form, a share that leaves no class, or an index that does not exist.
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
            f"Training classes {text!r} are {count} of {len(classes)} classes. Take at least one, at most all."
        )
    if seed is None:
        return tuple(range(count))
    return tuple(np.sort(class_generator(seed, "train classes", "").permutation(len(classes))[:count]).tolist())
