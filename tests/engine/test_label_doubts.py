"""Doubtful labels: flipped ones are found, and what is found is what slow loops find."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from negprompt_cli.engine.label_doubts import MEANS_SCALE, label_doubts

SCALE = 20.0


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
    found = label_doubts(features, given, centres, scale=SCALE)
    assert {(d.image, d.suggested) for d in found} == {(i, int(labels[i])) for i in (3, 50, 119)}


def test_doubts_against_loops():
    features, labels, centres = world(60, 3, 0.5)
    x = features.double()
    mean = x.mean(0)

    def unit(v: torch.Tensor) -> torch.Tensor:
        return v / v.norm()

    expected = []
    for i in range(60):
        prompts = [SCALE * float(x[i] @ c) for c in centres.double()]
        means = []
        for k in range(3):
            others = [unit(x[j] - mean) for j in range(60) if j != i and labels[j] == k]
            means.append(MEANS_SCALE * float(unit(x[i] - mean) @ unit(torch.stack(others).sum(0))))
        total = [math.exp(a + b) for a, b in zip(prompts, means, strict=True)]
        best, own = prompts.index(max(prompts)), int(labels[i])
        if best == means.index(max(means)) != own:
            expected.append(((total[best] - total[own]) / sum(total), i, best))
    assert len(expected) > 2
    found = label_doubts(features, labels, centres, scale=SCALE, least=0)
    assert [(d.image, d.suggested) for d in found] == [(i, best) for _, i, best in sorted(expected, reverse=True)]
    assert [d.margin for d in found] == pytest.approx([m for m, _, _ in sorted(expected, reverse=True)], abs=1e-4)
    likely = label_doubts(features, labels, centres, scale=SCALE, least=0.8)
    assert likely == [d for d in found if d.margin > 0.8]


def test_blocks_do_not_matter():
    features, labels, centres = world(60, 3, 0.5)
    whole = label_doubts(features, labels, centres, scale=SCALE, least=0)
    parts = label_doubts(features, labels, centres, scale=SCALE, least=0, block=7)
    assert [(d.image, d.suggested) for d in parts] == [(d.image, d.suggested) for d in whole]


def test_an_image_alone_in_its_class_is_not_doubted():
    features, labels, centres = world(40, 3, 0.1)
    every = torch.cat([centres, -centres[:1]])
    alone = labels.clone()
    alone[0] = 3
    assert all(d.image != 0 for d in label_doubts(features, alone, every, scale=SCALE, least=0))
    assert label_doubts(features[:1], labels[:1], centres, scale=SCALE) == []
