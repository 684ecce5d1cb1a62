"""The values of an opened image as 8-bit RGB: one documented rule for every kind of value. PIL and numpy only, no torch.

* 8-bit RGB and greyscale: exactly PIL's `convert("RGB")`, as in the reference preprocessing of CLIP and open_clip. So are
  1 bit (black and white), YCbCr, HSV and CMYK (Adobe's inverted CMYK in JPEGs is turned around by PIL; colour profiles are
  not applied). LAB becomes sRGB, by LittleCMS.
* A palette is expanded to its colours.
* Transparency (an alpha channel, or a transparent colour) is dropped, as the reference preprocessing does: the colours
  below it show. `alpha` lays the image over white or black instead, for drawings whose shape is in their alpha channel.
* EXIF orientation is NOT applied. Published numbers come from pipelines that ignore it; `orientation` applies it.
* Several frames, pages or sizes: the first; of an icon the largest.
* Grey values of more than 8 bits, where PIL's own conversion would clip (which turns most of a 16-bit image white). What is
  white is, with `values` "auto":
    16-bit integers           65535; of a file that declares fewer bits (12-bit TIFF, PGM with its maximum) what it declares
    32-bit integers           65535, if they are between 0 and 65535
    floats from 0 to 1        1
    floats from 0 to 255      255
  An image whose values do not fit is refused with its range, because it would come out black, white or meaningless: integers
  that end at 16383 or below (14, 12, 10 or 8 bits in a larger type), negative values, floats that end between 1 and 16 or
  above 255, no finite value. Half a grey level beyond an end is allowed for floats; NaN is black, infinity is an end.
  Then the user chooses: a number is what is white; "range" scales each image from its own lowest value (black) to its
  highest (white); "type" takes the white of the type all the same: 65535 for integers up to that and 2^31 - 1 beyond, 1 for
  floats that end below 16 and 255 beyond.
* 16-bit colour: PIL keeps the upper 8 bits, which is what 65535 as white means. Where they end in their lowest quarter, the
  image is refused, unless `values` is "type": what is left of it is too coarse to be scaled.
* A TIFF that says that 0 is white is turned around, also where PIL forgets to (16 bits and more).
"""

import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from negprompt_cli.config import PixelsConfig
from negprompt_cli.decisions import Decision

EXIF_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_MOST_DOUBTFUL = 16383
"""Integers that end here or below look like 14 bits or fewer in a type of 16 or 32."""
_HALF_LEVEL = 0.5
_LEAST_OF_255 = 16.0
"""Floats that end between 1 and this fit neither 0..1 nor 0..255."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each EXIF orientation upright."""
_DEEP_COLOUR = re.compile(r"^(?!BGR).*;16[BLNR]?$")


class DoubtfulValues(ValueError):
    """The values of an image do not fit their type; the message has their range and what to set."""


def rules_decisions(rules: PixelsConfig) -> tuple[Decision, ...]:
    """What a user must be told of the rules by which images are read: nothing of the usual ones."""
    if rules == PixelsConfig():
        return ()
    chosen = rules.model_dump(exclude_defaults=True)
    named = ", ".join(f"{key} {value}" for key, value in chosen.items())
    return (Decision("values-scaled", f"images are read by model.pixels: {named}", chosen),)


def to_rgb(image: Image.Image, rules: PixelsConfig) -> Image.Image:
    """Convert an opened image to 8-bit RGB by the rules above.

    Raises:
        DoubtfulValues: its values do not fit their type, and `rules` leave the choice open.
        Exception: what PIL raises for damaged data.
    """
    deep, declared = _is_deep_colour(image), _declared(image)
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        rgb = Image.fromarray(_to_8_bit(image, rules, declared)).convert("RGB")
    else:
        rgb = _colours(image, rules)
        if deep and rules.values != "type":
            _check_deep_colour(rgb)
    if rules.orientation == "apply" and (turned := orientation(image)) != 1:
        rgb = _turned(rgb, turned)
    return rgb


def orientation(image: Image.Image) -> int:
    """EXIF orientation of an opened image, 1 to 8; 1 (upright) where EXIF data are missing or damaged."""
    try:
        found = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF data make their reader raise anything
        return 1
    return found if found in range(1, 9) else 1


def _turned(image: Image.Image, turn: int) -> Image.Image:
    turned = image.transpose(_TURNS[turn])
    for said in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        turned.info.pop(said, None)
    return turned


def is_transparent(image: Image.Image) -> bool:
    """Whether a decoded image has pixels that are not opaque."""
    if "transparency" in image.info:
        return True
    bands = image.getbands()
    band = next((name for name in ("A", "a") if name in bands), None)
    return band is not None and image.getextrema()[bands.index(band)][0] < 255  # type: ignore[index]


def _colours(image: Image.Image, rules: PixelsConfig) -> Image.Image:
    if rules.alpha != "drop" and is_transparent(image):
        ground = Image.new("RGBA", image.size, rules.alpha)
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    if image.mode in ("P", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
    # Pillow would copy an image that is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _stored(image: Image.Image) -> list[tuple[str, object]]:
    """How PIL will read an image that is not loaded yet: mode of its raw values, and the decoder's next argument."""
    tiles = getattr(image, "tile", None) or []
    arguments = [args if isinstance(args, tuple) else (args,) for *_, args in tiles]
    return [(args[0], args[1] if len(args) > 1 else None) for args in arguments if args and isinstance(args[0], str)]


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether PIL reads 16 bits per channel of an image that is not loaded yet as 8."""
    if image.mode.startswith("I"):
        return False
    deep_ppm = ("RGB", 65535)
    return any(_DEEP_COLOUR.match(mode) or (mode, maximum) == deep_ppm for mode, maximum in _stored(image))


def _declared(image: Image.Image) -> float | None:
    """The highest value that a file itself declares, where that is less than its type holds."""
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]  # type: ignore[attr-defined]
        return float(2**bits - 1) if 8 < bits < 16 else None
    if image.format == "PPM" and image.mode == "I":
        # PIL scales what a PGM declares to 65535 while it reads.
        return 65535.0 if any(isinstance(maximum, int) and maximum < 65535 for _, maximum in _stored(image)) else None
    return None


def _check_deep_colour(rgb: Image.Image) -> None:
    highest = max(int(high) for _, high in rgb.getextrema())  # type: ignore[misc]
    if highest <= _MOST_DOUBTFUL >> 8:
        raise DoubtfulValues(
            f"its 16-bit colours end at {256 * highest + 255} or below, where white is 65535, so it would be almost black. "
            "Convert it to 8 bits in its own range, or set model.pixels.values to type if it is meant to be so dark"
        )


def _to_8_bit(image: Image.Image, rules: PixelsConfig, declared: float | None) -> NDArray[np.uint8]:
    """Scale 16-bit, 32-bit or float grey values (h, w) to 0..255, rounded."""
    values = np.asarray(image)
    grey = values.astype(np.float64)
    finite = grey[np.isfinite(grey)]
    if not finite.size:
        raise DoubtfulValues("it has no finite values")
    low, high = float(finite.min()), float(finite.max())
    floats = bool(np.issubdtype(values.dtype, np.floating))
    black, white = 0.0, _white(rules, low, high, declared, floats=floats)
    if rules.values == "range":
        black, white = low, high if high > low else low + 1.0
    scaled = (np.nan_to_num(grey, nan=black, posinf=np.inf, neginf=-np.inf) - black) * (255.0 / (white - black))
    levels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return 255 - levels if _white_is_zero(image) else levels


def _white(rules: PixelsConfig, low: float, high: float, declared: float | None, *, floats: bool) -> float:
    """The value that is white.

    Raises:
        DoubtfulValues: none is, by the rules.
    """
    if isinstance(rules.values, float | int):
        return float(rules.values)
    if floats:
        slack = _HALF_LEVEL / 255
        fits_1 = -slack <= low and high <= 1 + slack
        fits_255 = low >= -_HALF_LEVEL and _LEAST_OF_255 <= high <= 255 + _HALF_LEVEL
        if not (fits_1 or fits_255) and rules.values == "auto":
            raise _doubtful("float", low, high, "floats from 0 to 1 or from 0 to 255")
        return 1.0 if high < _LEAST_OF_255 else 255.0
    if declared is not None:
        return declared
    fits = low >= 0 and high <= 65535 and (high > _MOST_DOUBTFUL or high == low == 0)
    if not fits and rules.values == "auto":
        raise _doubtful("integer", low, high, "values from 0 up to 65535, which is white")
    return 65535.0 if high <= 65535 else float(2**31 - 1)


def _doubtful(kind: str, low: float, high: float, expected: str) -> DoubtfulValues:
    bits = next((bits for bits in (8, 10, 12, 14) if high < 2**bits), 0)
    number = f"{2**bits - 1} for {bits} bits" if kind != "float" and bits else "a number"
    return DoubtfulValues(
        f"its {kind} values are {low:g} to {high:g}, which does not fit {expected}. Set model.pixels.values to the value "
        f"that is white ({number}), to range (scale each image from its lowest to its highest value), or to type (take them "
        "as they are)"
    )


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF of more than 8 bits says that 0 is white, which PIL does not heed."""
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
