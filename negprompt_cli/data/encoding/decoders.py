"""Read image files as a model's input pixels, with PIL as in CLIP's preprocessing, or faster with torchcodec.

PIL is the reference. torchcodec (extra "decode") decodes a JPEG to exactly the same values, but resizing them as tensors
changes some pixels by one grey level. It is used for plain JPEGs only. PIL reads all other files, files with an EXIF
orientation (which torchcodec would apply, but CLIP's preprocessing does not), and files that torchcodec cannot read, so the
rules of `images` hold with both. Decoding on a GPU and preprocessing with padding are not supported.
"""

import ast
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from negprompt_cli.choices import Decoder
from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.encoding.images import open_image, open_rgb, quiet
from negprompt_cli.data.encoding.pixels import orientation, to_rgb
from negprompt_cli.data.sets.packed import is_item
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError


@dataclass(frozen=True)
class OpenClipTransform:
    """open_clip's transform of RGB images. It is made for the first image, because importing open_clip takes seconds.

    `settings`: the sorted items of open_clip's PreprocessCfg, as Python text.
    """

    settings: str

    @classmethod
    def of(cls, model: Any) -> "OpenClipTransform":
        """Return the transform that an open_clip model was trained with."""
        from open_clip.transform import PreprocessCfg

        return cls(repr(sorted(asdict(PreprocessCfg(**model.visual.preprocess_cfg)).items())))

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image to (3, H, W)."""
        return self._made(image)

    @cached_property
    def _made(self) -> Callable[[Image.Image], Tensor]:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        made: Callable[[Image.Image], Tensor] = image_transform_v2(
            PreprocessCfg(**dict(ast.literal_eval(self.settings))), is_train=False
        )
        return made


@dataclass(frozen=True)
class Preprocess:
    """Converts an opened image to RGB by `rules` and applies the model's `transform` to get (3, H, W)."""

    rules: PixelsConfig
    transform: Callable[[Any], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one image to (3, H, W).

        Raises:
            DoubtfulValues: its values do not fit their type.
        """
        return self.transform(to_rgb(image, self.rules))


@dataclass(frozen=True)
class PilReader:
    """Reads a file with PIL and preprocesses it to (3, H, W).

    `preprocessing` describes the processing and is part of cache keys.
    """

    preprocess: Preprocess
    preprocessing: str

    def __call__(self, path: Path) -> Tensor:
        """Read one image.

        Raises:
            BrokenImage: it cannot be read; names the file.
        """
        return self.preprocess.transform(open_rgb(path, self.preprocess.rules))


@dataclass(frozen=True)
class TorchcodecReader:
    """Reads plain JPEGs with torchcodec and resizes them as tensors; `others` reads all other files.

    `size`: (H, W) in pixels. `squash`: whether the image is stretched to it; otherwise its shorter side is scaled and the
    centre is cropped. `mean`, `std`: per channel, for values in [0, 1].
    """

    others: PilReader
    size: tuple[int, int]
    squash: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def preprocessing(self) -> str:
        """Description of the processing; for the cache, another decoder means another preprocessing."""
        return f"{self.others.preprocessing} torchcodec"

    def __call__(self, path: Path) -> Tensor:
        """Read one image.

        Raises:
            BrokenImage: it cannot be read; names the file.
        """
        pixels = None if is_item(path) else _plain_jpeg(path)
        return self.others(path) if pixels is None else self._fit(pixels)

    def _fit(self, pixels: Tensor) -> Tensor:
        """Convert (3, h, w) bytes to the model's input (3, H, W)."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        size = list(self.size) if self.squash else [min(self.size)]
        mode = InterpolationMode(self.interpolation)
        pixels = functional.resize(pixels, size, interpolation=mode, antialias=True)
        pixels = functional.center_crop(pixels, list(self.size))
        fitted: Tensor = functional.normalize(pixels.float().div_(255), list(self.mean), list(self.std))
        return fitted


def pixel_rules(clip: Clip) -> PixelsConfig:
    """Return the rules by which image files become RGB for a model."""
    return clip.preprocess.rules if isinstance(clip.preprocess, Preprocess) else PixelsConfig()


def pixel_reader(clip: Clip, decoder: Decoder) -> PilReader | TorchcodecReader:
    """Make the reader of image files for a model.

    Raises:
        UsageError: torchcodec is not installed, or only PIL supports the model's preprocessing.
    """
    given = clip.preprocess
    preprocess = given if isinstance(given, Preprocess) else Preprocess(PixelsConfig(), given)
    reader = PilReader(preprocess, f"{clip.preprocessing} {preprocess.rules!r}")
    if decoder == "pil":
        return reader
    try:
        import torchcodec.decoders  # noqa: F401
    except Exception as error:  # The package may be missing, or its shared library may be built for another torch.
        raise UsageError(
            f"The decoder torchcodec needs the extra 'decode': pip install 'negprompt[decode]' ({error}).",
            remedy="decoder-pil",
        ) from error
    from open_clip.transform import PreprocessCfg

    config = PreprocessCfg(**clip.model.visual.preprocess_cfg)  # type: ignore[arg-type, union-attr]
    size = (config.size, config.size) if isinstance(config.size, int) else (config.size[0], config.size[1])
    fits = config.resize_mode == "squash" or (config.resize_mode == "shortest" and size[0] == size[1])
    if not fits or config.mode != "RGB" or config.interpolation not in ("bicubic", "bilinear"):
        raise UsageError(
            f"The decoder torchcodec does not support this model's preprocessing ({clip.preprocessing}).",
            remedy="decoder-pil",
        )
    return TorchcodecReader(
        reader, size, config.resize_mode == "squash", config.interpolation, tuple(config.mean), tuple(config.std)
    )


def _plain_jpeg(path: Path) -> Tensor | None:
    """Decode a JPEG to (3, h, w) bytes; return None if PIL must read the file."""
    from torchcodec.decoders import decode_jpeg

    try:
        with quiet, open_image(path) as image:
            plain = image.format == "JPEG" and image.mode in ("RGB", "L")
            if not plain or orientation(image) != 1:
                return None
            size = (image.height, image.width)
        pixels: Tensor = decode_jpeg(str(path), output_dtype=torch.uint8)
    except Exception:  # PIL then reports the error with the usual message.
        return None
    # With damaged EXIF data, the libraries may disagree about whether the image is rotated.
    return pixels if pixels.shape[-2:] == size else None
