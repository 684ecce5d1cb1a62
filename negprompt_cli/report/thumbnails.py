"""Small JPEGs of image files, for pages."""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.encoding.images import BrokenImage, opened
from negprompt_cli.data.encoding.pixels import to_rgb

SIDE = 112
"""Pixels of the longer side."""
QUALITY = 78
THREADS = 4


def thumbnail(path: Path, rules: PixelsConfig) -> bytes | None:
    """A small JPEG of an image file whose values are read by `rules`; None where it cannot be read (any more)."""
    try:
        with opened(path) as image:
            # JPEGs are decoded at an eighth of their size, or whatever is still large enough.
            image.draft(None, (SIDE, SIDE))
            small = to_rgb(image, rules)
    except BrokenImage:
        return None
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def thumbnails(paths: Iterable[Path], rules: PixelsConfig) -> list[bytes | None]:
    """`thumbnail` of several files, a few at a time, in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda path: thumbnail(path, rules), paths))
