"""Reading one image file as RGB.

The rule for every kind of file, and why:

* 8-bit RGB and greyscale: exactly PIL's `convert("RGB")`, as in the reference preprocessing of CLIP and open_clip.
* EXIF orientation is NOT applied. Published numbers come from pipelines that ignore it. A photo that lies on its side
  because of it is best rotated once, on disk; `prepare.check` counts such photos.
* Transparency (an alpha channel, or a transparent colour of a palette) is dropped and not laid over a background: the
  reference preprocessing does so, and any background would be a guess. A palette is expanded to its colours first.
* CMYK and other colour spaces: PIL's `convert("RGB")`; embedded colour profiles are not applied.
* 16-bit greyscale is divided by 257, so that 65535 becomes 255; where PIL gives such a file as 32-bit integers the
  same holds, and integers beyond 65535 are divided by 2^24. Floats are 0..1 where none exceeds 1, else 0..255. PIL's
  own conversion would clip, which turns most of a 16-bit image white.
* Animations: the first frame.
* Only formats that PIL decodes itself are read (`filekinds`): the usual ones by content, whatever a file is called, and the
  others where the suffix names them. A PostScript file in .jpg's clothing would be handed to another program, and a few
  bytes of anything pass for a format without a signature. A camera's raw file is refused, since PIL reads its preview.
* PIL's warnings (damaged EXIF data, more than 89 million pixels) are not shown: they do not change the pixels.
* Truncated, broken and empty files are errors, and so are decompression bombs (beyond PIL's limit of 179 million
  pixels).
"""

import os
import stat
import warnings
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from negprompt_cli.data.sets.filekinds import disguise, readable_formats, unreadable_kind
from negprompt_cli.data.sets.torchsets import is_item, open_item
from negprompt_cli.errors import NegPromptError


class BrokenImage(NegPromptError):
    """An image file that cannot be read; the message names it."""


def open_rgb(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB by the rules above; the file is closed again.

    Args:
        path: an image file, or an image inside a torchvision set (`torchsets`).

    Raises:
        BrokenImage: missing, empty, truncated, not an image, or too large; names the file.
    """
    if is_item(path):
        return to_rgb(open_item(path))
    try:
        with _quiet, open_image(path) as image:
            return to_rgb(image)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"{path}: {error} Scale the image down, or remove it.") from error
    except Exception as error:  # what a decoder trips over in a damaged file is not limited to OSError
        raise BrokenImage(f"Cannot read the image {path}: {_reason(path, error)}.") from error


def open_image(path: Path) -> Image.Image:
    """Open an image file without decoding it: formats that PIL decodes itself, in regular files.

    Raises:
        OSError: missing, not a regular file, not an image of one of these formats, or the preview in a camera's raw file.
        Exception: what PIL raises on damaged headers.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        # Reading a pipe would wait for a writer, reading some devices would never end.
        raise OSError("it is not a regular file")
    image = Image.open(path, formats=readable_formats(path.suffix))
    kind = unreadable_kind(path.suffix)
    if kind is not None and kind.preview and image.format == "TIFF":
        image.close()
        raise OSError(f"it is of kind {kind.kind}, of which only a small preview can be read; {kind.help}")
    return image


class _Quiet:
    """Silences PIL's warnings while any thread reads an image; Python's own way to do so is not made for threads."""

    def __init__(self) -> None:
        self._lock, self._readers = Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._readers:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._filters.__exit__(None, None, None)


_quiet = _Quiet()


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an opened image (its first frame) to 8-bit RGB by the rules above."""
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("P", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale 16-bit, 32-bit or float grey values (h, w) to 0..255, rounded."""
    grey = np.nan_to_num(values.astype(np.float64), posinf=np.inf)
    top = grey.max(initial=0.0)
    if np.issubdtype(values.dtype, np.floating):
        grey *= 255.0 if top <= 1.0 else 1.0
    else:
        grey /= 257.0 if top <= 65535 else float(2**24)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a file, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file. Replace or remove it"
    if os.path.isfile(path) and os.path.getsize(path) == 0:  # noqa: PTH113, PTH202 - a name may be too long for Path
        return "the file is empty. Replace or remove it"
    if isinstance(error, UnidentifiedImageError):
        with path.open("rb") as file:
            found = disguise(file.read(200))
        if found is not None:
            return f"it is not an image of a known format, but {found[0]}; {found[1]}"
        if (kind := unreadable_kind(path.suffix)) is not None:
            return f"it is of kind {kind.kind}, which is not decoded here; {kind.help}"
        return "it is not an image of a known format. Replace or remove it"
    return f"{(str(error) or type(error).__name__).rstrip('.')}. Replace or remove it"
