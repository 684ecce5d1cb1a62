"""What the values of an image become. Oracles: arithmetic on known pixels, PIL's convert("RGB") where that is the rule."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_trees import write
from PIL import Image, ImageCms

from negprompt_cli.config import ModelConfig, PixelsConfig, load_config
from negprompt_cli.data.encoding.decoders import Preprocess, pixel_reader, pixel_rules
from negprompt_cli.data.encoding.images import DoubtfulImage, open_rgb
from negprompt_cli.data.encoding.pixels import DoubtfulValues, to_rgb
from negprompt_cli.data.prepare.check import check_data
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Silent

NOISE = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


def read(path: Path, **rules: Any) -> np.ndarray:
    image = open_rgb(path, PixelsConfig(**rules))
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(path: Path, **rules: Any) -> list[int]:
    values = read(path, **rules)
    assert (values == values[..., :1]).all()
    return values[0, :, 0].tolist()


def saved(folder: Path, values: np.ndarray, name: str = "x.tif") -> Path:
    Image.fromarray(values).save(folder / name)
    return folder / name


def png(depth: int, colour: int, values: np.ndarray) -> bytes:
    """A PNG of any depth and colour type; `values` (h, w) or (h, w, channels)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = values.astype(">u2" if depth == 16 else "u1")
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(bits: int, photometric: int, data: bytes, width: int) -> bytes:
    """A TIFF of one row, one channel and so many bits."""
    short, long = 3, 4
    tags = [
        (256, short, width), (257, short, 1), (258, short, bits), (259, short, 1), (262, short, photometric),
        (273, long, 8), (277, short, 1), (278, short, 1), (279, long, len(data)),
    ]  # fmt: skip
    data += b"\0" * (len(data) % 2)
    entries = [struct.pack("<HHIHH" if kind == short else "<HHII", tag, kind, 1, *((v, 0) if kind == short else (v,))) for tag, kind, v in tags]  # fmt: skip # noqa: E501
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + b"".join(entries)
        + b"\0" * 4
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 257, 32768, 65300, 65535]], dtype=np.uint16)
    levels = grey(saved(tmp_path, values, f"x.{suffix}"))
    assert levels == [0, 0, 1, 128, 254, 255]
    assert levels == np.rint(values[0] / 257).tolist()


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_fewer_bits_in_a_larger_type_are_refused_with_their_range_or_scaled_as_told(
    tmp_path: Path, bits: int, kind: type
) -> None:
    top = 2**bits - 1
    values = np.array([[3, top // 3, top]], dtype=kind)
    path = saved(tmp_path, values)
    with pytest.raises(DoubtfulImage, match=rf"x\.tif.* 3 to {top}.*model\.pixels\.values.*{top} for {bits} bits"):
        open_rgb(path)
    assert grey(path, values=top) == np.rint(values[0] / top * 255).tolist()
    assert grey(path, values="range") == np.rint((values[0] - 3) / (top - 3) * 255).tolist()
    assert grey(path, values="type") == np.rint(values[0] / 257).tolist()


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_black_image_is_black(tmp_path: Path, kind: type) -> None:
    assert grey(saved(tmp_path, np.zeros((2, 2), dtype=kind))) == [0, 0]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([-0.001, 0.25, 1.001], [0, 64, 255]),  # within half a level
        ([0.2, 0.4, 0.6], [51, 102, 153]),
        ([0.0, 127.6, 255.0], [0, 128, 255]),
        ([0.0, np.nan, 1.0], [0, 0, 255]),
        ([0.0, 1.0, np.inf], [0, 255, 255]),
    ],
)
def test_floats_that_fit(tmp_path: Path, values: list[float], levels: list[int]) -> None:
    assert grey(saved(tmp_path, np.array([values], dtype=np.float32))) == levels


@pytest.mark.parametrize(
    ("values", "shown", "by_type"),
    [
        ([0.0, 0.5, 1.02], "0 to 1.02", [0, 128, 255]),
        ([-0.5, 0.5, 1.0], "-0.5 to 1", [0, 128, 255]),
        ([0.0, 3.0, 8.0], "0 to 8", [0, 255, 255]),
        ([0.0, 100.0, 4095.0], "0 to 4095", [0, 100, 255]),
        ([-3.0, 127.0, 200.0], "-3 to 200", [0, 127, 200]),
    ],
)
def test_floats_that_do_not_fit(tmp_path: Path, values: list[float], shown: str, by_type: list[int]) -> None:
    path = saved(tmp_path, np.array([values], dtype=np.float32))
    with pytest.raises(DoubtfulImage, match=rf"x\.tif: its float values are {shown}"):
        open_rgb(path)
    low, high = min(values), max(values)
    assert grey(path, values="type") == by_type
    assert grey(path, values="range") == np.rint((np.float32(values) - low) / (high - low) * 255).tolist()
    assert grey(path, values=high) == np.clip(np.rint(np.float32(values) / high * 255), 0, 255).tolist()


@pytest.mark.parametrize("values", [[-5, 0, 40000], [0, 1, 2**31 - 1]])
def test_integers_beyond_16_bits_are_refused(tmp_path: Path, values: list[int]) -> None:
    with pytest.raises(DoubtfulImage, match="integer values are"):
        open_rgb(saved(tmp_path, np.array([values], dtype=np.int32)))


def test_no_finite_value_is_refused_whatever_is_set(tmp_path: Path) -> None:
    path = saved(tmp_path, np.full((2, 2), np.nan, dtype=np.float32))
    for choice in ("auto", "type", "range", 255):
        with pytest.raises(DoubtfulImage, match="no finite values"):
            open_rgb(path, PixelsConfig(values=choice))


def test_what_a_file_declares_counts(tmp_path: Path) -> None:
    values = np.array([0, 100, 500, 4095])
    expected = np.rint(values / 4095 * 255).tolist()
    body = values.astype(">u2").tobytes()
    assert grey(write(tmp_path / "a.pgm", b"P5 4 1 4095\n" + body)) == expected
    assert grey(write(tmp_path / "b.pgm", b"P2\n# 12 bits\n4 1 4095\n0 100 500 4095\n")) == expected
    assert grey(write(tmp_path / "dark.pgm", b"P2 2 1 4095\n0 500\n")) == [0, 31]
    assert grey(write(tmp_path / "c.tif", tiff(12, 1, b"\xff\xf8\x00", 2))) == [255, 128]
    assert grey(write(tmp_path / "d.tif", tiff(12, 1, b"\x40\x00\x00", 2))) == [64, 0]
    with pytest.raises(DoubtfulImage, match="0 to 4095"):
        open_rgb(write(tmp_path / "e.pgm", b"P5 4 1 65535\n" + body))


def test_zero_is_white_where_a_tiff_says_so(tmp_path: Path) -> None:
    assert grey(write(tmp_path / "8.tif", tiff(8, 0, b"\x00\xff", 2))) == [255, 0]
    assert grey(write(tmp_path / "16.tif", tiff(16, 0, struct.pack("<HH", 0, 65535), 2))) == [255, 0]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_its_upper_8_bits_or_refused(tmp_path: Path, colour: int, channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (4, 5, channels))
    path = write(tmp_path / "x.png", png(16, colour, values))
    upper = (values >> 8)[..., : 1 if colour == 4 else 3]
    assert np.array_equal(read(path), np.broadcast_to(upper, (4, 5, 3)))
    dark = values % 4096
    dark[..., -1] = 65535 if channels in (2, 4) else dark[..., -1]
    path = write(tmp_path / "dark.png", png(16, colour, dark))
    for choice in ("auto", "range", 4095):
        with pytest.raises(DoubtfulImage, match=r"dark\.png: its 16-bit colours are at most 4095"):
            open_rgb(path, PixelsConfig(values=choice))
    assert read(path, values="type").max() == 15


def test_low_bit_depths_are_spread_over_all_levels(tmp_path: Path) -> None:
    Image.new("1", (3, 1), 1).save(tmp_path / "bit.png")
    assert grey(tmp_path / "bit.png") == [255, 255, 255]
    assert grey(write(tmp_path / "x.pgm", b"P2 3 1 15\n0 5 15\n")) == [0, 85, 255]


@pytest.mark.filterwarnings("error")
def test_a_palette_is_expanded_and_its_transparency_dropped(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 220, 40])
    image.putdata([0, 1])
    for name, transparency in (("one.png", 1), ("bytes.png", b"\x00\x80"), ("none.png", None)):
        extra = {} if transparency is None else {"transparency": transparency}
        image.save(tmp_path / name, **extra)
        assert read(tmp_path / name).tolist() == [[[200, 10, 20], [30, 220, 40]]]
    assert read(tmp_path / "one.png", alpha="white").tolist() == [[[200, 10, 20], [255, 255, 255]]]
    assert read(tmp_path / "bytes.png", alpha="black")[0].tolist() == [[0, 0, 0], [15, 110, 20]]
    assert read(tmp_path / "none.png", alpha="white").tolist() == [[[200, 10, 20], [30, 220, 40]]]


@pytest.mark.parametrize(
    ("mode", "pixel", "dropped", "on_white"),
    [
        ("RGBA", (9, 8, 7, 0), [9, 8, 7], [255, 255, 255]),
        ("RGBA", (9, 8, 7, 255), [9, 8, 7], [9, 8, 7]),
        ("LA", (50, 0), [50, 50, 50], [255, 255, 255]),
        ("LA", (0, 51), [0, 0, 0], [204, 204, 204]),
    ],
)
def test_alpha_is_dropped_or_laid_over_a_background(
    tmp_path: Path, mode: str, pixel: tuple[int, ...], dropped: list[int], on_white: list[int]
) -> None:
    Image.new(mode, (2, 2), pixel).save(tmp_path / "x.png")
    assert read(tmp_path / "x.png")[0, 0].tolist() == dropped
    assert read(tmp_path / "x.png", alpha="white")[0, 0].tolist() == on_white


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk_is_pils_conversion(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(NOISE).convert("CMYK").save(path)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        assert np.array_equal(read(path), np.asarray(image.convert("RGB")))


def test_adobes_inverted_cmyk_looks_as_it_was_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (250, 20, 30)).convert("CMYK").save(tmp_path / "x.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "x.jpg").read_bytes()
    assert np.abs(read(tmp_path / "x.jpg")[0, 0].astype(int) - [250, 20, 30]).max() <= 3


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    """There and back again; 8 bits of LAB are a few levels of sRGB."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    colours = Image.fromarray(np.array([[[255, 255, 255], [0, 0, 0], [200, 30, 40], [120, 160, 90]]], dtype=np.uint8))
    ImageCms.profileToProfile(colours, srgb, lab, outputMode="LAB").save(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as image:
        assert image.mode == "LAB"
    assert np.abs(read(tmp_path / "x.tif").astype(int) - np.asarray(colours)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["RGB", "I;16"])
def test_exif_orientation_is_ignored_or_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "RGB":
        image = Image.fromarray(NOISE)
    else:
        image = Image.fromarray(np.arange(0, 65536, 500, dtype=np.uint16)[:117].reshape(9, 13))
    image.save(tmp_path / "x.png", exif=exif)
    plain = read(tmp_path / "x.png", values="type")
    upright = {
        1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.swapaxes(0, 1),
        6: np.rot90(plain, -1), 7: plain[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(plain),
    }  # fmt: skip
    assert np.array_equal(read(tmp_path / "x.png", values="type", orientation="apply"), upright[orientation])
    # Applied once, however often an image passes.
    rules = PixelsConfig(values="type", orientation="apply")
    again = to_rgb(open_rgb(tmp_path / "x.png", rules), rules)
    assert np.array_equal(np.asarray(again), upright[orientation])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_upright(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with Image.open(tmp_path / "x.jpg") as image:
        plain = np.asarray(image.convert("RGB"))
    assert np.array_equal(read(tmp_path / "x.jpg", orientation="apply"), plain)


def test_a_model_reads_by_its_rules_and_its_cache_knows_them(tiny_clip: Clip, tmp_path: Path) -> None:
    from dataclasses import replace

    path = saved(tmp_path, np.arange(4096, dtype=np.uint16).reshape(64, 64))
    plain = pixel_reader(tiny_clip, "pil")
    with pytest.raises(DoubtfulImage, match=r"x\.tif"):
        plain(path)
    told = replace(tiny_clip, preprocess=Preprocess(PixelsConfig(values=4095), tiny_clip.preprocess))
    reader = pixel_reader(told, "pil")
    assert pixel_rules(told).values == 4095 and reader.preprocessing != plain.preprocessing
    by_hand = Image.fromarray(np.rint(np.arange(4096).reshape(64, 64) / 4095 * 255).astype(np.uint8)).convert("RGB")
    assert torch.equal(reader(path), tiny_clip.preprocess(by_hand))
    with Image.open(path) as image:  # the Python interface preprocesses opened images
        assert torch.equal(told.preprocess(image), reader(path))
        with pytest.raises(DoubtfulValues):
            Preprocess(PixelsConfig(), tiny_clip.preprocess)(image)


def test_the_setting_is_a_configuration_key() -> None:
    assert load_config(assignments=["model.pixels.values=4095"]).model.pixels.values == 4095
    assert load_config(assignments=["model.pixels.values=range"]).model.pixels.values == "range"
    assert ModelConfig().pixels == PixelsConfig(values="auto", alpha="drop", orientation="ignore")
    for wrong in ("values=0", "values=dark", "alpha=red", "orientation=2"):
        with pytest.raises(UsageError, match=r"model\.pixels"):
            load_config(assignments=[f"model.pixels.{wrong}"])


def test_check_names_images_whose_values_are_not_what_they_look_like(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for key, shift in (("cat", 0), ("dog", 1)):
        for i in range(2):
            write(folder / key / f"{i}.png", png(8, 2, np.roll(NOISE, shift * 2 + i, axis=0)))
    saved(folder / "cat", np.array([[0, 1, 4095]], dtype=np.uint16), "twelve.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(folder / "cat" / "logo.png")
    Image.new("L", (4, 4), 1).save(folder / "dog" / "mask.png")
    frames = [Image.fromarray(np.roll(NOISE, i + 7, axis=1)) for i in range(3)]
    frames[0].save(folder / "dog" / "moving.gif", save_all=True, append_images=frames[1:])
    report = check_data(str(folder), data_root=tmp_path, progress=Silent())
    named = {finding.kind: [Path(item).name for item in finding.items] for finding in report.findings}
    assert [p.kind for p in report.problems] == ["values"]
    assert named["values"] == ["twelve.png"] and "0 to 4095" in report.problems[0].message
    assert named["transparency"] == ["logo.png"]
    assert sorted(named["plain"]) == ["logo.png", "mask.png"]
    assert named["frames"] == ["moving.gif"]
