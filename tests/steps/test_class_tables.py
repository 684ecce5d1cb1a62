"""Confusions as a matrix of few classes and as pairs of many, against counting."""

from collections import Counter

import numpy as np

from negprompt_cli.report.page import Matrix, Table
from negprompt_cli.steps.shared.class_tables import MATRIX_CLASSES, PAIRS, confusions


def guesses(classes: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=images)
    wrong = generator.random(images) < 0.5
    return labels, np.where(wrong, generator.integers(classes, size=images), labels)


def test_a_matrix_of_few_classes():
    labels, predictions = guesses(4, 90)
    found = confusions(labels, predictions, "abcd")
    assert isinstance(found, Matrix)
    counted = Counter(zip(labels.tolist(), predictions.tolist(), strict=True))
    assert found.counts == [[counted[i, j] for j in range(4)] for i in range(4)]
    assert np.allclose(np.sum(found.shares, axis=1), 1)


def test_the_most_frequent_pairs_of_many_classes():
    labels, predictions = guesses(MATRIX_CLASSES + 5, 900)
    names = [f"class {i}" for i in range(MATRIX_CLASSES + 5)]
    found = confusions(labels, predictions, names)
    assert isinstance(found, Table)
    counted = Counter((i, j) for i, j in zip(labels.tolist(), predictions.tolist(), strict=True) if i != j)
    assert [int(row[2]) for row in found.rows] == [count for _, count in counted.most_common(PAIRS)]
    for own, other, count, share in found.rows:
        pair = names.index(own), names.index(other)
        assert counted[pair] == int(count)
        assert float(share) == round(100 * int(count) / int((labels == pair[0]).sum()), 1)
    assert f"{len(counted) - PAIRS} more pairs" in found.note


def test_no_errors_have_no_table():
    labels = np.array([0, 1, 2])
    assert confusions(labels, labels, "abc") is None
