"""Small image files and folder trees for the data set tests."""

import io
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"
ASSETS = SHARED / "assets" / "images"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the example images are not at {ASSETS}")


def jpeg(shade: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    """The bytes of a JPEG; different shades give different bytes."""
    buffer = io.BytesIO()
    colour = (shade % 256, shade // 256 % 256, shade // 65536 % 256)
    image = Image.new("RGB", size, colour)
    image.paste("white", (size[0] // 2, size[1] // 2, *size))
    image.save(buffer, "JPEG", comment=str(shade).encode())
    return buffer.getvalue()


def write(path: Path, content: bytes = b"x") -> Path:
    """Write a file and the folders above it. Listing looks at names only, so the content may be anything."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def class_tree(root: Path, counts: dict[str, int], *, decodable: bool = False) -> Path:
    """Class folders with so many images each."""
    for c, (key, count) in enumerate(counts.items()):
        (root / key).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            write(root / key / f"{i:03d}.jpg", jpeg(1000 * c + i) if decodable else b"x")
    return root


def ranges_by_hand(text: str) -> set[int]:
    """The indices of '0-2,7', read the slow way."""
    indices: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        indices |= set(range(int(first), int(last or first) + 1))
    return indices


def write_catalogue(path: Path, sets: dict[str, object]) -> Path:
    """A catalogue file of one's own."""
    path.write_text(yaml.safe_dump({"sets": sets}))
    return path


def relatives(paths: Iterable[Path], root: Path) -> list[str]:
    """Relative POSIX texts."""
    return [path.relative_to(root).as_posix() for path in paths]
