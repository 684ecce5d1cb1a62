"""Convert an opened image to 8-bit RGB, with one documented rule for each kind of value. Needs only PIL and numpy.

* 8-bit RGB and greyscale images are converted exactly by PIL's `convert("RGB")`, as in the reference preprocessing of CLIP
  and open_clip. The same applies to 1 bit (black and white), YCbCr, HSV and CMYK; PIL inverts Adobe's inverted CMYK in
  JPEGs, and colour profiles are not applied. LittleCMS converts LAB to sRGB.
* Palettes are expanded to their colours.
* Transparency (an alpha channel, or a transparent colour) is ignored, as in the reference preprocessing, so hidden colours
  become visible. `alpha` puts the image on white or black instead, for drawings whose shape is in the alpha channel.
* EXIF orientation is NOT applied, because published results come from pipelines that ignore it; `orientation` applies it.
* Of several frames, pages or sizes the first is used; of an icon the largest.
* Grey values of more than 8 bits are scaled, because PIL's own conversion would clip them (and make most of a 16-bit image
  white). With `values` "auto" the white value is:
    16-bit integers           65535, or the maximum that the file declares (12-bit TIFF, PGM)
    32-bit integers           65535, if all values are between 0 and 65535
    floats from 0 to 1        1
    floats from 0 to 255      255
  An image whose values do not fit is refused, because the result would be black, white or meaningless. This concerns
  integers whose maximum is 16383 or lower (14, 12, 10 or 8 bits in a larger type), negative values, floats whose maximum is
  between 1 and 16 or above 255, and images without finite values. Floats may exceed a limit by half a grey level; NaN
  becomes black, and infinity is clipped. The message has the range, and the user can choose: a number is the white value;
  "range" scales each image from its lowest value (black) to its highest (white); "type" uses the white value of the type
  anyway: 65535 for integers up to 65535 and 2^31 - 1 above, 1 for floats with a maximum below 16 and 255 above.
* Of 16-bit colours PIL keeps the upper 8 bits, which corresponds to 65535 as white. If their maximum is in the lowest
  quarter, the image is refused unless `values` is "type", because too few levels remain for scaling.
* A TIFF that declares 0 as white is inverted, even if PIL does not do it (16 bits and more).
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
"""A maximum of integers up to this value suggests 14 bits or fewer in a type of 16 or 32 bits."""
_HALF_LEVEL = 0.5
_LEAST_OF_255 = 16.0
"""Floats with a maximum between 1 and this value fit neither 0..1 nor 0..255."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes an image upright, by EXIF orientation."""
_DEEP_COLOUR = re.compile(r"^(?!BGR).*;16[BLNR]?$")


class DoubtfulValues(ValueError):
    """The values of an image do not fit their type; the message has their range and the setting to change."""


def rules_decisions(rules: PixelsConfig) -> tuple[Decision, ...]:
    """Return decisions about the rules by which images are read; none for the default rules."""
    if rules == PixelsConfig():
        return ()
    chosen = rules.model_dump(exclude_defaults=True)
    named = ", ".join(f"{key} {value}" for key, value in chosen.items())
    return (Decision("values-scaled", f"images are read by model.pixels: {named}", chosen),)


def to_rgb(image: Image.Image, rules: PixelsConfig) -> Image.Image:
    """Convert an opened image to 8-bit RGB by the rules above.

    Raises:
        DoubtfulValues: its values do not fit their type, and `rules` do not define a choice.
        Exception: any error that PIL raises for damaged data.
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
    """Return the EXIF orientation of an opened image, 1 to 8; 1 (upright) if EXIF data are missing or damaged."""
    try:
        found = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # The reader raises errors of any type for damaged EXIF data.
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
    """Return how PIL will read an image that is not loaded yet: the raw mode and the decoder's next argument."""
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
    """Return the highest value that a file declares if it is lower than that of its type, else None."""
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
            f"its 16-bit colours are at most {256 * highest + 255}, but white is 65535, so it would be almost black. "
            "Convert it to 8 bits with its own range, or set model.pixels.values to type if it is really so dark"
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
    """Return the white value.

    Raises:
        DoubtfulValues: the rules do not define it.
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
        f"its {kind} values are {low:g} to {high:g}, which does not fit {expected}. Set model.pixels.values to the white "
        f"value ({number}), to range (scale each image from its lowest to its highest value), or to type (use the white "
        "value of the type)"
    )


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF of more than 8 bits declares 0 as white, which PIL ignores."""
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
