"""A model's preprocessing without torch: open_clip's transform of an RGB image, with PIL and numpy only.

`open_clip.transform.image_transform` (for inference) resizes with PIL and crops or pads to the model's size. This module
makes the same calls, so pixels are bit for bit equal. `images` reads files.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from negprompt_cli.config import PixelsConfig

Channel = tuple[float, float, float]


class Preprocessing(BaseModel):
    """Converts an RGB image to a model's input pixels.

    `size`: (height, width). `resize_mode`: "shortest" scales the shorter side and crops the centre, "longest" scales the
    longer side and pads with the grey `fill_color`, "squash" stretches. `mean`, `std`: per channel, for values in [0, 1].
    `pixels`: the rules by which files become RGB. `layout`: a description of the pixels for readers of an exported file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    resize_mode: Literal["shortest", "longest", "squash"]
    interpolation: Literal["bicubic", "bilinear"]
    fill_color: Annotated[int, Field(ge=0, le=255)]
    pixels: PixelsConfig
    mean: Channel
    std: Channel
    layout: str = "RGB in [0, 1], (pixel - mean) / std per channel, (batch, 3, height, width) float32"

    def __call__(self, image: Image.Image, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Convert an RGB image to (3, height, width); write it to `out` if that is given."""
        if out is None:
            out = np.empty((3, *self.size), dtype=np.float32)
        mean, std = np.array([self.mean, self.std], dtype=np.float32)[..., None, None]
        out[:] = np.asarray(self.fit(image)).transpose(2, 0, 1)
        out /= 255
        out -= mean
        out /= std
        return out

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize an image and crop or pad it to the model's size."""
        height, width = self.size
        bilinear = self.interpolation == "bilinear"
        if self.resize_mode == "squash":
            return image.resize((width, height), _FILTERS[bilinear])
        if self.resize_mode == "shortest" and height == width:
            short, long = sorted(image.size)
            scaled = int(height * long / short)
            size = (height, scaled) if image.width <= image.height else (scaled, height)
        else:
            # For a size that is not square, open_clip uses the default filter for the shorter side.
            bilinear &= self.resize_mode == "longest"
            ratios = (image.height / height, image.width / width)
            ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
            size = (round(image.width / ratio), round(image.height / ratio))
        fill = self.fill_color if self.resize_mode == "longest" else 0
        return _middle(image.resize(size, _FILTERS[bilinear]), (width, height), fill)


_FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)


def _middle(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    """Crop the centre of an image to (width, height); a side that is too short is padded first."""
    width, height = max(size[0], image.width), max(size[1], image.height)
    if (width, height) != image.size:
        padded = Image.new("RGB", (width, height), (fill, fill, fill))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = padded
    left, top = round((width - size[0]) / 2), round((height - size[1]) / 2)
    return image.crop((left, top, left + size[0], top + size[1]))
