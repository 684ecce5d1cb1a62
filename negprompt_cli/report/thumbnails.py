"""Small JPEGs of image files, for pages."""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.encoding.images import BrokenImage, opened
from negprompt_cli.data.encoding.pixels import to_rgb

SIDE = 144
"""Pixels of the longer side."""
QUALITY = 78
THREADS = 4


def thumbnail(path: Path, rules: PixelsConfig) -> bytes | None:
    """A small JPEG of an image file, which is read by `rules`; None if it cannot be read."""
    try:
        with opened(path) as image:
            # A JPEG is decoded at the smallest size, down to an eighth, that is still large enough.
            image.draft(None, (SIDE, SIDE))
            small = to_rgb(image, rules)
    except BrokenImage:
        return None
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def thumbnails(paths: Iterable[Path], rules: PixelsConfig) -> list[bytes | None]:
    """`thumbnail` of several files in order; a few are read at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda path: thumbnail(path, rules), paths))
