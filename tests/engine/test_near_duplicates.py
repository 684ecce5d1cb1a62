"""Near-duplicates: copies among features in a narrow cone are found, whatever the block size, and each pair once."""

import pytest
import torch
from torch.nn.functional import normalize

from negprompt_cli.engine.near_duplicates import COSINE, near_duplicates


def cone(count: int, seed: int) -> torch.Tensor:
    """Features that share a direction, so that even unlike ones have a cosine around 0.9."""
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.eye(32)[0] * 16 + torch.randn(count, 32, generator=draw), dim=1)


def test_copies_are_found_within_and_across_and_the_cone_is_not():
    images, others = cone(40, 0), cone(30, 1)
    assert (images @ images.T).mean() > 0.85
    noise = 0.004 * torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    images[[7, 20, 39]] = normalize(images[[3, 5, 1]] + noise, dim=1)
    others[4] = normalize(images[11] + noise[0], dim=0)
    mean = torch.cat([images, others]).mean(0)
    for block in (1024, 7):
        within = near_duplicates(images, mean=mean, block=block)
        assert {(one.image, one.other) for one in within} == {(3, 7), (5, 20), (1, 39)}
        assert [one.similarity for one in within] == sorted((one.similarity for one in within), reverse=True)
        (across,) = near_duplicates(others, images, mean=mean, block=block)
        assert (across.image, across.other) == (4, 11)
        assert across.cosine == pytest.approx(float(others[4] @ images[11]), abs=1e-6)
        assert across.similarity == pytest.approx(
            float(torch.cosine_similarity(others[4] - mean, images[11] - mean, dim=0)), abs=1e-5
        )


def test_images_that_are_all_alike_are_near_duplicates_of_each_other():
    draw = torch.Generator().manual_seed(0)
    frames = normalize(torch.eye(32)[0] + 0.01 * torch.randn(20, 32, generator=draw), dim=1)
    pairs = near_duplicates(frames, mean=frames.mean(0))
    assert {place for one in pairs for place in (one.image, one.other)} == set(range(20))
    assert all(one.cosine >= COSINE for one in pairs)
    two = near_duplicates(frames[:2], mean=frames[:2].mean(0))
    assert [(one.image, one.other) for one in two] == [(0, 1)]


def test_one_image_has_no_pair():
    assert near_duplicates(cone(1, 0), mean=torch.zeros(32)) == []
    assert near_duplicates(cone(1, 0), cone(0, 1), mean=torch.zeros(32)) == []
