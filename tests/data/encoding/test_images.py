"""Reading images. Oracles: PIL's plain convert("RGB") for ordinary files, arithmetic on known pixels for the others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_trees import ASSETS, jpeg, needs_assets, write
from PIL import Image

from negprompt_cli.data.encoding.images import BrokenImage, open_rgb
from negprompt_cli.errors import NegPromptError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_files_are_pils_plain_conversion(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(NOISE).convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels(open_rgb(path)), expected)


@needs_assets
def test_real_images_are_pils_plain_conversion() -> None:
    files = sorted(ASSETS.glob("*/*/*.jpg"))[:20] + sorted(ASSETS.glob("imagenette/val/*/*"))[:20]
    assert len(files) == 40
    for path in files:
        with Image.open(path) as image:
            assert np.array_equal(pixels(open_rgb(path)), np.asarray(image.convert("RGB"))), path


@pytest.mark.filterwarnings("error")
def test_a_palette_is_expanded_and_its_transparency_dropped(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 220, 40])
    image.putdata([0, 1])
    for name, transparency in (("one.png", 1), ("bytes.png", b"\x00\x80"), ("none.png", None)):
        extra = {} if transparency is None else {"transparency": transparency}
        image.save(tmp_path / name, **extra)
        assert pixels(open_rgb(tmp_path / name)).tolist() == [[[200, 10, 20], [30, 220, 40]]]


@pytest.mark.parametrize(("mode", "pixel", "rgb"), [("RGBA", (9, 8, 7, 0), [9, 8, 7]), ("LA", (50, 10), [50, 50, 50])])
def test_alpha_is_dropped_and_not_laid_over_a_background(
    tmp_path: Path, mode: str, pixel: tuple[int, ...], rgb: list[int]
) -> None:
    Image.new(mode, (2, 2), pixel).save(tmp_path / "x.png")
    assert pixels(open_rgb(tmp_path / "x.png"))[0, 0].tolist() == rgb


def test_cmyk_is_pils_conversion(tmp_path: Path) -> None:
    Image.fromarray(NOISE).convert("CMYK").save(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as image:
        assert image.mode == "CMYK"
        assert np.array_equal(pixels(open_rgb(tmp_path / "x.tif")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 257, 32768, 65300, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    grey = pixels(open_rgb(tmp_path / f"x.{suffix}"))[0, :, 0]
    assert grey.tolist() == [0, 0, 1, 128, 254, 255]
    assert grey.tolist() == np.rint(values[0] / 257).tolist()


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (np.array([[0, 65535]], dtype=np.int32), [0, 255]),
        (np.array([[0, 2**31 - 1]], dtype=np.int32), [0, 128]),
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[-3.0, 127.6, 300.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, np.nan, np.inf]], dtype=np.float32), [0, 0, 255]),
    ],
)
def test_32_bit_grey(tmp_path: Path, values: np.ndarray, grey: list[int]) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert pixels(open_rgb(tmp_path / "x.tif"))[0, :, 1].tolist() == grey


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(tmp_path / "x.jpg", exif=exif)
    assert open_rgb(tmp_path / "x.jpg").size == (17, 13)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert pixels(open_rgb(tmp_path / "x.gif"))[0, 0].tolist() == [255, 0, 0]


def truncated(path: Path) -> None:
    content = jpeg(1, (200, 200))
    write(path, content[: len(content) // 2])


def truncated_png(path: Path) -> None:
    Image.fromarray(np.kron(NOISE, np.ones((9, 9, 1), dtype=np.uint8))).save(path, "PNG")
    write(path, path.read_bytes()[:-200])


def broken_png(path: Path) -> None:
    Image.fromarray(NOISE).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[60:90] = b"\x00" * 30
    write(path, bytes(content))


def text(path: Path) -> None:
    write(path, b"\xff\xd8\xff\xe0 not an image")


def empty(path: Path) -> None:
    write(path, b"")


def missing(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()


def bomb(path: Path) -> None:
    Image.new("1", (20000, 20000)).save(path, "PNG")


@pytest.mark.parametrize("damage", [truncated, truncated_png, broken_png, text, empty, missing, folder, bomb])
def test_damaged_files_are_errors_that_name_them(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "photo.jpg"
    damage(path)
    with pytest.raises(BrokenImage, match=r"photo\.jpg") as raised:
        open_rgb(path)
    assert isinstance(raised.value, NegPromptError)
    assert "\n" not in str(raised.value)


def test_the_file_is_closed_again(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jpg", jpeg())
    image = open_rgb(path)
    path.unlink()
    assert image.getpixel((0, 0)) is not None
