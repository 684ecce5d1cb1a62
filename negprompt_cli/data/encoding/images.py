"""Read one image file as RGB. `pixels` converts the values; `filekinds` decides which files are images.

* Only formats that PIL decodes itself are read: the usual formats by content with any file name, other formats only with
  their suffix. Otherwise PIL would pass a PostScript file named .jpg to another program, and would read almost any bytes as
  a format without a signature. Raw files of cameras are refused, because PIL reads only their preview.
* PIL's warnings (damaged EXIF data, more than 89 million pixels) are not shown, because they do not change the pixels.
* An image with one side more than a thousand times the other is refused: scaled for a model, it would take gigabytes.
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

# PIL also logs the errors that it raises; without a handler Python would write them to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())

MOST_NARROW = 1000
"""Largest ratio of the sides: an image is scaled until its shorter side fits the model."""


class BrokenImage(NegPromptError):
    """An image file that cannot be read; the message names it."""


class DoubtfulImage(BrokenImage):
    """An image whose values do not fit their type; the message has the file, the range, and the setting to change."""


def open_rgb(path: Path, rules: PixelsConfig = PixelsConfig()) -> Image.Image:  # noqa: B008 - it is frozen
    """Read an image as 8-bit RGB and close the file.

    Args:
        path: an image file, or an image inside a container (`packed`).
        rules: how values become RGB (`pixels`).

    Raises:
        DoubtfulImage: its values do not fit their type.
        BrokenImage: the file is missing, empty, truncated, not an image, or too large.
    """
    with opened(path) as image:
        return to_rgb(image, rules)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image without decoding it. Errors while it is open name the file; PIL's warnings are not shown.

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
    except Exception as error:  # Decoders raise errors of any type for damaged files.
        raise BrokenImage(f"Cannot read the image {path}: {_reason(path, error)}.") from error


def open_image(path: Path) -> Image.Image:
    """Open an image without decoding it, in a format that PIL decodes itself; in a regular file or inside a container.

    Raises:
        OSError: the file is missing, not a regular file, not an image in one of these formats, or a camera's raw file.
        Exception: any error that PIL raises for damaged headers.
    """
    inside = item_content(path)
    source: Path | io.BytesIO = path if inside is None else io.BytesIO(inside[0])
    suffix = path.suffix if inside is None else PurePath(inside[1]).suffix
    if inside is None and not stat.S_ISREG(path.stat().st_mode):
        # Reading a pipe could wait forever, and reading some devices never ends.
        raise OSError("it is not a regular file")
    try:
        image = Image.open(source, formats=common_formats())
    except UnidentifiedImageError:
        image = Image.open(source, formats=readable_formats(suffix))
    if max(image.size) > MOST_NARROW * min(image.size):
        width, height = image.size
        image.close()
        raise OSError(f"it has {width} x {height} pixels, which is too narrow for a square crop; crop it")
    if image.format == "TIFF" and (kind := unreadable_kind(suffix)) is not None and kind.preview:
        image.close()
        raise OSError(f"it is of kind {kind.kind}, of which only a small preview can be read; {kind.help}")
    return image


class _Quiet:
    """Silences PIL's warnings while any thread reads an image; `warnings.catch_warnings` is not safe with threads."""

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
    """Return what is wrong with a file, and what to do about it."""
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
    """Return the first bytes of a file that cannot be read as an image; None if they cannot be read either."""
    try:
        if (inside := item_content(path)) is not None:
            return inside[0][:200]
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(200)
    except (OSError, ValueError):
        return None
