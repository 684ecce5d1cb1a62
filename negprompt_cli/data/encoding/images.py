"""Reading one image file as RGB. What its values become is in `pixels`; which files are images is in `filekinds`.

* Only formats that PIL decodes itself are read: the usual ones by content, whatever a file is called, and the others where
  the suffix names them. A PostScript file in .jpg's clothing would be handed to another program, and a few bytes of anything
  pass for a format without a signature. A camera's raw file is refused, since PIL reads its preview.
* PIL's warnings (damaged EXIF data, more than 89 million pixels) are not shown: they do not change the pixels.
* An image more than a thousand times as long as it is wide is refused: scaled for a model it would take gigabytes.
* Truncated, broken and empty files are errors, and so are decompression bombs (beyond PIL's limit of 179 million
  pixels).
"""

import io
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from threading import Lock

from PIL import Image, UnidentifiedImageError

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.encoding.pixels import DoubtfulValues, to_rgb
from negprompt_cli.data.sets import torchsets
from negprompt_cli.data.sets.filekinds import common_formats, disguise, readable_formats, unreadable_kind
from negprompt_cli.data.sets.packed import item_content
from negprompt_cli.errors import NegPromptError

# PIL logs what it also raises; without a handler Python would write it to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

MOST_NARROW = 1000
"""Most that a side may be longer than the other: an image is scaled until its shorter side fits the model."""


class BrokenImage(NegPromptError):
    """An image file that cannot be read; the message names it."""


class DoubtfulImage(BrokenImage):
    """An image whose values do not fit their type; the message names the file, the range, and the setting that decides."""


def open_rgb(path: Path, rules: PixelsConfig = PixelsConfig()) -> Image.Image:  # noqa: B008 - it is frozen
    """Read an image as 8-bit RGB; the file is closed again.

    Args:
        path: an image file, or an image inside a file that holds many (`packed`).
        rules: how its values become RGB (`pixels`).

    Raises:
        DoubtfulImage: its values do not fit their type; names the file and the range.
        BrokenImage: missing, empty, truncated, not an image, or too large; names the file.
    """
    with opened(path) as image:
        return to_rgb(image, rules)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, not decoded yet, and name the file in what goes wrong while it is open; PIL's warnings are silent.

    Raises:
        DoubtfulImage, BrokenImage: as `open_rgb`.
    """
    try:
        if torchsets.is_item(path):
            yield torchsets.open_item(path)
        else:
            with quiet, open_image(path) as image:
                yield image
    except (MemoryError, NegPromptError):
        raise
    except DoubtfulValues as error:
        raise DoubtfulImage(f"{path}: {error}.") from error
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"{path}: {error} Scale the image down, or remove it.") from error
    except Exception as error:  # what a decoder trips over in a damaged file is not limited to OSError
        raise BrokenImage(f"Cannot read the image {path}: {_reason(path, error)}.") from error


def open_image(path: Path) -> Image.Image:
    """Open an image without decoding it: formats that PIL decodes itself, in regular files or inside a file that holds many.

    Raises:
        OSError: missing, not a regular file, not an image of one of these formats, or the preview in a camera's raw file.
        Exception: what PIL raises on damaged headers.
    """
    inside = item_content(path)
    source: Path | io.BytesIO = path if inside is None else io.BytesIO(inside[0])
    suffix = path.suffix if inside is None else PurePath(inside[1]).suffix
    if inside is None and not stat.S_ISREG(path.stat().st_mode):
        # Reading a pipe would wait for a writer, reading some devices would never end.
        raise OSError("it is not a regular file")
    try:
        image = Image.open(source, formats=common_formats())
    except UnidentifiedImageError:
        image = Image.open(source, formats=readable_formats(suffix))
    if max(image.size) > MOST_NARROW * min(image.size):
        width, height = image.size
        image.close()
        raise OSError(f"it has {width} x {height} pixels, too narrow to be cut to a square; crop it")
    if image.format == "TIFF" and (kind := unreadable_kind(suffix)) is not None and kind.preview:
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


quiet = _Quiet()
"""A context without PIL's warnings."""


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a file, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return f"it is a link to {path.readlink()}, which does not exist. Fetch that file (`git annex get`, `dvc pull`)"
        return "there is no such file. Replace or remove it"
    if os.path.isdir(path):  # noqa: PTH112 - Path's own raises for a name that is too long
        return "it is a folder. Give it as an argument, or list its images"
    start = _start(path)
    if start == b"":
        return "the file is empty. Replace or remove it"
    if isinstance(error, UnidentifiedImageError):
        if (found := disguise(start or b"")) is not None:
            return f"it is not an image of a known format, but {found[0]}; {found[1]}"
        if (kind := unreadable_kind(path.suffix)) is not None:
            return f"it is of kind {kind.kind}, which is not decoded here; {kind.help}"
        return "it is not an image of a known format. Replace or remove it"
    said = isinstance(error, OSError) and error.strerror
    return f"{(said or str(error) or type(error).__name__).rstrip('.')}. Replace or remove it"


def _start(path: Path) -> bytes | None:
    """The first bytes of a file that cannot be read as an image; None where they cannot be had."""
    try:
        if (inside := item_content(path)) is not None:
            return inside[0][:200]
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(200)
    except (OSError, ValueError):
        return None
