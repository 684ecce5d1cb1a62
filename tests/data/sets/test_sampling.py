"""Few-shot samples, halves, limits, training classes: what they must not depend on, against slow counting."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from negprompt_cli.data.sets.classnames import ClassLabel
from negprompt_cli.data.sets.sampling import few_shot, half, limit, select_train_classes
from negprompt_cli.errors import UsageError

SIZES = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 12), min_size=1, max_size=6)


def images(sizes: dict[str, int]) -> tuple[np.ndarray, list[str], list[str]]:
    """Labels, paths and keys of so many images per class, in sorted order."""
    keys = sorted(sizes)
    paths = [f"{key}/{i:02d}.jpg" for key in keys for i in range(sizes[key])]
    labels = np.array([keys.index(path.split("/")[0]) for path in paths], dtype=np.int64)
    return labels, paths, keys


@given(SIZES, st.integers(1, 5), st.integers(0, 3))
def test_few_shot_counts(sizes: dict[str, int], shots: int, seed: int) -> None:
    labels, paths, keys = images(sizes)
    sample = few_shot(labels, paths, class_keys=keys, shots=shots, seed=seed)
    drawn = Counter(keys[labels[i]] for i in sample.indices)
    assert drawn == Counter({key: min(size, shots) for key, size in sizes.items() if size})
    assert sample.short == {key: size for key, size in sizes.items() if size < shots}
    assert sample.indices.tolist() == sorted(set(sample.indices.tolist()))


@given(SIZES, st.integers(0, 3), st.randoms(use_true_random=False))
def test_few_shot_does_not_depend_on_the_order_of_files(sizes: dict[str, int], seed: int, order: random.Random) -> None:
    labels, paths, keys = images(sizes)
    shuffled = list(range(len(paths)))
    order.shuffle(shuffled)
    a = few_shot(labels, paths, class_keys=keys, shots=3, seed=seed)
    b = few_shot(labels[shuffled], [paths[i] for i in shuffled], class_keys=keys, shots=3, seed=seed)
    assert {paths[i] for i in a.indices} == {paths[shuffled[i]] for i in b.indices}


@given(SIZES, st.integers(0, 3))
def test_another_class_does_not_change_the_sample(sizes: dict[str, int], seed: int) -> None:
    labels, paths, keys = images(sizes)
    more_labels, more_paths, more_keys = images({**sizes, "a_new_one": 7})
    a = few_shot(labels, paths, class_keys=keys, shots=3, seed=seed)
    b = few_shot(more_labels, more_paths, class_keys=more_keys, shots=3, seed=seed)
    ours = {paths[i] for i in a.indices}
    theirs = {more_paths[i] for i in b.indices}
    assert ours == {path for path in theirs if not path.startswith("a_new_one/")}


def test_seeds_draw_different_images_uniformly() -> None:
    labels, paths, keys = images({"a": 10})
    draws = [few_shot(labels, paths, class_keys=keys, shots=2, seed=seed).indices.tolist() for seed in range(600)]
    count = Counter(i for draw in draws for i in draw)
    assert len({tuple(draw) for draw in draws}) > 40
    assert all(80 < count[i] < 160 for i in range(10))  # 120 expected, standard deviation 10


def test_the_global_generators_are_left_alone() -> None:
    labels, paths, keys = images({"a": 10})
    state, before = random.getstate(), np.random.get_state()[1].copy()
    few_shot(labels, paths, class_keys=keys, shots=2, seed=0)
    limit(labels, paths, class_keys=keys, count=3, seed=0)
    assert random.getstate() == state
    assert (np.random.get_state()[1] == before).all()


def test_unlabelled_images_are_never_shots() -> None:
    labels = np.array([-1, 0, -1])
    assert few_shot(labels, ["a", "b", "c"], class_keys=["k"], shots=2, seed=0).indices.tolist() == [1]


@pytest.mark.parametrize(("shots", "seed"), [(0, 0), (-1, 0), (1, -1)])
def test_bad_shots_and_seeds_are_refused(shots: int, seed: int) -> None:
    with pytest.raises(UsageError):
        few_shot(np.array([0]), ["a"], class_keys=["k"], shots=shots, seed=seed)


@given(st.integers(0, 40), st.text(max_size=3), st.integers(0, 3))
def test_halves_are_disjoint_and_complete(count: int, key: str, seed: int) -> None:
    a, b = (half(count, key, seed=seed, first=first).tolist() for first in (True, False))
    assert sorted(a + b) == list(range(count))
    assert len(a) - len(b) in (0, 1)


@given(SIZES, st.integers(1, 40), st.integers(0, 3))
def test_limit_is_as_even_as_the_classes_allow(sizes: dict[str, int], count: int, seed: int) -> None:
    labels, paths, keys = images(sizes)
    kept = limit(labels, paths, class_keys=keys, count=count, seed=seed).tolist()
    assert kept == sorted(set(kept))
    assert len(kept) == min(count, len(paths))
    drawn = Counter(keys[labels[i]] for i in kept)
    level = max(drawn.values(), default=0)
    assert all(drawn[key] >= min(size, level - 1) for key, size in sizes.items())


def test_limit_below_the_number_of_classes_does_not_favour_the_first() -> None:
    labels, paths, keys = images({f"{i:02d}": 3 for i in range(20)})
    chosen = Counter(
        int(labels[i]) for seed in range(100) for i in limit(labels, paths, class_keys=keys, count=5, seed=seed)
    )
    assert set(chosen) == set(range(20))
    assert max(chosen.values()) < 50  # 25 expected


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(UsageError):
        limit(np.array([0]), ["a"], class_keys=["k"], count=0, seed=0)


CLASSES = tuple(ClassLabel(str(i), str(i), None) for i in range(25))


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("10%", [0, 1]),
        ("100%", list(range(25))),
        ("4 %", [0]),
        ("all", list(range(25))),
        ("0-2,7", [0, 1, 2, 7]),
        ("12.5%", [0, 1, 2]),
    ],
)
def test_training_classes(text: str, chosen: list[int]) -> None:
    assert list(select_train_classes(CLASSES, text)) == chosen


@pytest.mark.parametrize("k", [10, 15, 99, 100, 1000])
def test_ten_per_cent_is_floor_k_over_10(k: int) -> None:
    classes = tuple(ClassLabel(str(i), str(i), None) for i in range(k))
    assert select_train_classes(classes, "10%") == tuple(range(k // 10))


def test_random_training_classes_are_seeded() -> None:
    a = select_train_classes(CLASSES, "40%:random:0")
    assert len(set(a)) == 10
    assert list(a) == sorted(a)
    assert a == select_train_classes(CLASSES, "40%:random:0") != select_train_classes(CLASSES, "40%:random:1")


@pytest.mark.parametrize("text", ["", "1%", "0%", "101%", "x%", "10%:random", "10%:random:x", "30", "1/0%", "nan%"])
def test_bad_training_classes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        select_train_classes(CLASSES, text)
