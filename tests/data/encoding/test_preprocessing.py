"""Preprocessing without torch against open_clip's own transform, bit for bit."""

from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.encoding.preprocessing import Preprocessing

SIZES = ((64, 64), (40, 30), (30, 41), (33, 97), (101, 64), (500, 375), (375, 501), (9, 200), (1, 1))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("resize_mode", "size", "fill_color"),
    [
        ("shortest", (64, 64), 0),
        ("shortest", (48, 80), 0),
        ("longest", (64, 64), 127),
        ("longest", (80, 47), 255),
        ("squash", (64, 64), 0),
        ("squash", (50, 70), 0),
    ],
)
def test_pixels_are_those_of_open_clip(
    interpolation: Any, resize_mode: Any, size: tuple[int, int], fill_color: int
) -> None:
    config = PreprocessCfg(size=size, resize_mode=resize_mode, interpolation=interpolation, fill_color=fill_color)
    reference = image_transform_v2(config, is_train=False)
    ours = Preprocessing(
        size=size,
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill_color=fill_color,
        pixels=PixelsConfig(),
        mean=config.mean,
        std=config.std,
    )
    generator = np.random.default_rng(0)
    for width, height in SIZES:
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        made = ours(image)
        assert made.dtype == np.float32
        np.testing.assert_array_equal(made, reference(image).numpy())
