"""The choice of negative words against slow loops."""

import math
import statistics

import numpy as np
import torch
from torch.nn.functional import normalize

from negprompt_cli.engine.scores.word_choice import farthest, image_distances, name_distances

GENERATOR = torch.Generator().manual_seed(0)
WORDS = normalize(torch.randn(30, 8, generator=GENERATOR, dtype=torch.float64), dim=1)
CLASSES = normalize(torch.randn(4, 8, generator=GENERATOR, dtype=torch.float64), dim=1)


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.fsum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def test_distance_from_names_is_a_low_percentile_of_negative_cosines():
    expected = [float(np.percentile([-dot(w, c) for c in CLASSES], 5)) for w in WORDS]
    np.testing.assert_allclose(name_distances(WORDS, CLASSES), expected, rtol=1e-12)


def test_distance_from_images_is_the_mean_margin_of_words_that_no_class_is_as_near_to():
    # Images near their class names, of three of the four classes.
    labels = torch.tensor([0, 0, 2, 3, 3, 3])
    images = normalize(CLASSES[labels] + 0.2 * torch.randn(6, 8, generator=GENERATOR, dtype=torch.float64), dim=1)
    expected = []
    for w in WORDS:
        margins = []
        for i in (0, 2, 3):
            mean = normalize(torch.stack([x for x, c in zip(images, labels, strict=True) if c == i]).mean(0), dim=0)
            margins.append(dot(CLASSES[i], mean) - dot(w, mean))
        expected.append(statistics.fmean(margins) if min(margins) > 0 else -math.inf)
    found = image_distances(WORDS, CLASSES, images, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # A word that is a class name is never chosen.
    assert image_distances(CLASSES, CLASSES, images, labels).tolist()[0] == -math.inf
    assert 0 < np.isfinite(expected).sum() < 33


def test_the_farthest_come_first_and_those_without_a_distance_not_at_all():
    distances = torch.tensor([0.1, -torch.inf, 0.3, 0.2, 0.3])
    assert farthest(distances, 3).tolist() == [2, 4, 3]
    assert farthest(distances, 9).tolist() == [2, 4, 3, 0]
