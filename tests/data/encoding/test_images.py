"""Reading image files: ordinary ones as PIL's plain convert("RGB"), broken ones named, PIL's warnings silent."""

import io
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def test_disguised_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    contents = {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "pointer of Git LFS; run `git lfs pull`",
        b"\n<!DOCTYPE html><html></html>": "a web page; download the image again",
        b"\xef\xbb\xbf<html>": "a web page",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': "an XML text",
        b'{"error": "not found"}': "a JSON text",
        b"%PDF-1.7": "a PDF document",
        b"PK\x03\x04abc": "a ZIP archive",
        b"\0\0\0\x18ftypheic\0\0\0\0": "an HEIC image; install pillow-heif",
        b"\0\0\0\x18ftypisom\0\0\0\0": "a video; take frames out",
        b"\0" * 300: "zero bytes only",
        b"\0" * 128 + b"DICM": "a DICOM image",
        b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x08\0\x08\x01\x01\x11\0": "JPEG image that is damaged or of a rare kind",
        b"RIFF\0\0\0\0AVI LIST": "a RIFF file that is not a WebP image; take frames",
    }
    for i, (content, said) in enumerate(contents.items()):
        path = write(tmp_path / f"{i}.jpg", content)
        with pytest.raises(BrokenImage) as raised:
            open_rgb(path)
        assert str(path) in str(raised.value) and said in str(raised.value)


def test_the_preview_in_a_camera_raw_file_is_not_taken_for_the_photo(tmp_path: Path) -> None:
    """Raw files of most cameras are TIFF files whose first image is a thumbnail."""
    Image.fromarray(NOISE).save(tmp_path / "x.tif")
    raw = write(tmp_path / "x.NEF", (tmp_path / "x.tif").read_bytes())
    with pytest.raises(BrokenImage, match=r"x\.NEF: it is of kind camera raw.*small preview.*convert"):
        open_rgb(raw)
    assert open_rgb(write(tmp_path / "y.nef", jpeg())).size == (8, 8)  # a JPEG, whatever it is called


def test_a_format_without_a_signature_is_read_by_its_suffix_only(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "x.tga")
    assert np.array_equal(pixels(open_rgb(tmp_path / "x.tga")), NOISE)
    with pytest.raises(BrokenImage, match="not an image of a known format"):
        open_rgb(write(tmp_path / "x.jpg", (tmp_path / "x.tga").read_bytes()))


@pytest.mark.filterwarnings("error")
def test_warnings_that_change_no_pixel_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = jpeg(1)
    segment = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\x7f\x01\x02\x03\x04" * 3
    path = write(
        tmp_path / "exif.jpg", plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    )
    with pytest.raises(UserWarning), Image.open(path):
        pass
    assert pixels(open_rgb(path)).tolist() == pixels(Image.open(io.BytesIO(plain)).convert("RGB")).tolist()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # 8 x 8 pixels are more than that and less than twice that
    with pytest.raises(Image.DecompressionBombWarning), Image.open(write(tmp_path / "large.jpg", plain)):
        pass
    with ThreadPoolExecutor(4) as pool:
        assert {image.size for image in pool.map(open_rgb, [path, tmp_path / "large.jpg"] * 8)} == {(8, 8)}
    with pytest.raises(UserWarning):
        warnings.warn("what others warn of is heard again", stacklevel=1)


def test_reading_images_needs_no_torch() -> None:
    ask = "import sys, negprompt_cli.data.encoding.images; print([m for m in ('torch', 'torchvision') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_tiff_of_five_channels_is_named_for_what_it_is(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.tif")
    data = (tmp_path / "x.tif").read_bytes()
    samples = struct.pack("<HHIH", 277, 3, 1, 3)
    assert data.count(samples) == 1
    five = write(tmp_path / "five.tif", data.replace(samples, struct.pack("<HHIH", 277, 3, 1, 5)))
    with pytest.raises(BrokenImage, match=r"five channels.*convert it to 8-bit RGB"):
        open_rgb(five)


def test_a_link_to_nowhere_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to("../.git/annex/objects/gone")
    with pytest.raises(
        BrokenImage, match=r"x\.jpg: it is a link to \.\./\.git/annex/objects/gone, which does not exist"
    ):
        open_rgb(tmp_path / "x.jpg")


def test_an_image_that_would_be_huge_when_it_is_scaled_is_refused(tmp_path: Path) -> None:
    Image.new("L", (1, 30_000)).save(tmp_path / "thin.png")
    with pytest.raises(BrokenImage, match=r"thin\.png: it has 1 x 30000 pixels.*crop"):
        open_rgb(tmp_path / "thin.png")
    Image.new("L", (1000, 1)).save(tmp_path / "wide.png")
    assert open_rgb(tmp_path / "wide.png").size == (1000, 1)


def test_pils_log_does_not_reach_stderr(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.tif")
    samples = struct.pack("<HHIH", 277, 3, 1, 3)
    many = (tmp_path / "x.tif").read_bytes().replace(samples, struct.pack("<HHIH", 277, 3, 1, 2000))
    path = write(tmp_path / "many.tif", many)
    ask = "import sys, pathlib; from negprompt_cli.data.encoding.images import open_rgb; open_rgb(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", ask, path], capture_output=True, text=True)
    assert "BrokenImage" in done.stderr and "\nMore samples" not in "\n" + done.stderr
