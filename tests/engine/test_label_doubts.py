"""Doubtful labels: flipped ones are found, and what is found is what slow loops find."""

import torch
from torch.nn.functional import normalize

from negprompt_cli.engine.label_doubts import NEIGHBOURS, label_doubts


def world(images: int, classes: int, noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(classes, 12, generator=generator), dim=-1)
    labels = torch.randint(classes, (images,), generator=generator)
    features = normalize(centres[labels] + noise * torch.randn(images, 12, generator=generator), dim=-1)
    return features, labels, centres


def test_flipped_labels_are_found_and_no_others():
    features, labels, centres = world(120, 4, 0.05)
    given = labels.clone()
    for place in (3, 50, 119):
        given[place] = (labels[place] + 1) % 4
    found = label_doubts(features, given, centres)
    assert {(d.image, d.suggested) for d in found} == {(i, int(labels[i])) for i in (3, 50, 119)}
    assert all(d.margin > 0 and 2 * d.agreeing > d.neighbours == NEIGHBOURS for d in found)


def test_doubts_against_loops():
    features, labels, centres = world(60, 3, 0.5)
    expected = []
    for i in range(60):
        cosines = [float(features[i] @ c) for c in centres]
        best = max(range(3), key=cosines.__getitem__)
        others = sorted((j for j in range(60) if j != i), key=lambda j: -float(features[i] @ features[j]))
        agreeing = sum(int(labels[j]) == best for j in others[:NEIGHBOURS])
        if best != labels[i] and agreeing > NEIGHBOURS / 2:
            expected.append((cosines[best] - cosines[int(labels[i])], i, best, agreeing))
    assert expected
    found = [(d.image, d.suggested, d.agreeing) for d in label_doubts(features, labels, centres)]
    assert found == [(i, best, agreeing) for _, i, best, agreeing in sorted(expected, reverse=True)]
    assert [d.image for d in label_doubts(features, labels, centres, most=1)] in ([], [found[0][0]])


def test_one_image_has_no_neighbours():
    features, labels, centres = world(1, 2, 0.1)
    assert label_doubts(features, labels, centres) == []
