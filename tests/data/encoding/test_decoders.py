"""Pixels of torchcodec against PIL's, and whose word counts where they could disagree."""

import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from negprompt_cli.config import ModelConfig, PixelsConfig, load_config
from negprompt_cli.data.encoding.decoders import Preprocess, TorchcodecReader, pixel_reader
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.encoding.models import load_clip
from negprompt_cli.data.sets.spec import parse_spec
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.errors import UsageError
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.workbench import Workbench

ONE_GREY_LEVEL = 1.1 / 255 / 0.26
"""A little more than one of 256 values, in units of normalised pixels (CLIP's smallest deviation is 0.26)."""


@pytest.fixture
def reader(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> TorchcodecReader:
    pytest.importorskip("torchcodec", reason="the extra 'decode' is not installed")
    config = asdict(PreprocessCfg(size=(32, 32)))
    monkeypatch.setattr(tiny_clip.model.visual, "preprocess_cfg", config, raising=False)
    made = pixel_reader(tiny_clip, "torchcodec")
    assert isinstance(made, TorchcodecReader)
    return made


def photo(path: Path, size: tuple[int, int] = (90, 61), *, mode: str = "RGB", **save: object) -> Path:
    coarse = np.random.default_rng(3).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size).convert(mode).save(path, **save)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(90, 61), (33, 200), (32, 32), (20, 11)])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_pixels_differ_by_a_grey_level_at_most(
    reader: TorchcodecReader, tmp_path: Path, mode: str, size: tuple[int, int], subsampling: int
) -> None:
    path = photo(tmp_path / "a.jpg", size, mode=mode, subsampling=subsampling, quality=90)
    ours, theirs = reader(path), reader.others(path)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert (ours - theirs).abs().max() <= ONE_GREY_LEVEL


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_supported_preprocessing(
    tiny_clip: Clip, reader: TorchcodecReader, tmp_path: Path, mode: str, interpolation: str
) -> None:
    config = PreprocessCfg(size=(40, 40), resize_mode=mode, interpolation=interpolation)
    path = photo(tmp_path / "a.jpg", (120, 70))
    ours = replace(reader, size=(40, 40), squash=mode == "squash", interpolation=interpolation)(path)
    assert (ours - image_transform_v2(config, is_train=False)(Image.open(path))).abs().max() <= ONE_GREY_LEVEL


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_not_applied(reader: TorchcodecReader, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = photo(tmp_path / "a.jpg", exif=exif)
    assert (reader(path) - reader.others(path)).abs().max() <= ONE_GREY_LEVEL


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGBA"), ("a.gif", "P"), ("a.jpg", "CMYK"), ("a.webp", "RGB")])
def test_other_files_are_pils(reader: TorchcodecReader, tmp_path: Path, name: str, mode: str) -> None:
    path = photo(tmp_path / name, mode=mode)
    assert torch.equal(reader(path), reader.others(path))


@pytest.mark.parametrize("kept", [0, 3, 200, -20])
def test_broken_files_are_named_as_pil_names_them(reader: TorchcodecReader, tmp_path: Path, kept: int) -> None:
    path = photo(tmp_path / "whole.jpg")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BrokenImage, match=r"broken\.jpg") as ours:
        reader(broken)
    with pytest.raises(BrokenImage) as theirs:
        reader.others(broken)
    assert str(ours.value) == str(theirs.value)


def test_travels_to_worker_processes(reader: TorchcodecReader, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg")
    assert torch.equal(pickle.loads(pickle.dumps(reader))(path), reader(path))


def test_cached_features_of_the_two_are_kept_apart(reader: TorchcodecReader) -> None:
    assert reader.preprocessing != reader.others.preprocessing


def test_padding_is_refused(tiny_clip: Clip, reader: TorchcodecReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_clip.model.visual, "preprocess_cfg", asdict(PreprocessCfg(resize_mode="longest")))
    with pytest.raises(UsageError, match="does not support this model's preprocessing"):
        pixel_reader(tiny_clip, "torchcodec")


def test_missing_extra_is_named(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchcodec.decoders", None)
    with pytest.raises(UsageError, match=r"negprompt\[decode\]"):
        pixel_reader(tiny_clip, "torchcodec")


def test_features_agree_on_real_images(real_images: Path, lite_clip_folder: Path) -> None:
    pytest.importorskip("torchcodec", reason="the extra 'decode' is not installed")
    clip = load_clip(ModelConfig(name=f"local-dir:{lite_clip_folder}", pretrained=None), choose_compute("cpu"))
    paths = sorted((real_images / "textures").rglob("*.jpg"))[::12]
    fast, slow = pixel_reader(clip, "torchcodec"), pixel_reader(clip, "pil")
    ours = clip.encode_images(torch.stack([fast(p) for p in paths]))
    theirs = clip.encode_images(torch.stack([slow(p) for p in paths]))
    assert len(paths) >= 40
    assert (ours * theirs).sum(-1).min() > 0.9995


def test_the_configuration_chooses_it(
    reader: TorchcodecReader, tiny_clip: Clip, make_images: Callable[..., list[Path]]
) -> None:
    paths = make_images(5)
    config = load_config(flags={"data.decoder": "torchcodec", "compute.workers": 0})
    bench = Workbench(config, Silent(), clip=tiny_clip)
    encoded = bench.encode(bench.image_set(parse_spec(str(paths[0].parent)), "ood"))
    expected = tiny_clip.encode_images(torch.stack([reader(p) for p in paths]))
    assert torch.allclose(encoded.features, expected, atol=1e-6)
    other = Workbench(load_config(flags={"compute.workers": 0}), Silent(), clip=tiny_clip).encode(encoded.images)
    assert not torch.equal(other.features, encoded.features)


def test_odd_files_are_pils_whatever_their_values(reader: TorchcodecReader, tmp_path: Path) -> None:
    """Every kind of value that `pixels` has a rule for, and JPEGs that two libraries may read apart."""
    noise = np.random.default_rng(5).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    colour = Image.fromarray(noise)
    grey = noise[..., 0]
    odd: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "16.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "12.png": (Image.fromarray(grey.astype(np.uint16) * 16), {}),
        "float.tif": (Image.fromarray(grey.astype(np.float32) / 255), {}),
        "lab.tif": (colour.convert("LAB"), {}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "several.mpo": (colour, {"save_all": True, "append_images": [Image.fromarray(255 - noise)]}),
        "damaged-exif.jpg": (colour, {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"}),
        "half-exif.jpg": (colour, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\xff"}),
        "alpha.webp": (colour.convert("RGBA"), {}),
    }
    for name, (image, extra) in odd.items():
        image.save(tmp_path / name, **extra)

    def outcome(read: Callable[[Path], torch.Tensor], path: Path) -> torch.Tensor | str:
        try:
            return read(path)
        except BrokenImage as error:
            return str(error)

    for name in odd:
        ours, theirs = outcome(reader, tmp_path / name), outcome(reader.others, tmp_path / name)
        if isinstance(ours, str) or isinstance(theirs, str):
            assert ours == theirs, name
        else:
            assert (ours - theirs).abs().max() <= ONE_GREY_LEVEL, name
    assert isinstance(outcome(reader, tmp_path / "12.png"), str)


def test_an_orientation_that_is_applied_is_applied_to_jpegs_too(
    tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchcodec", reason="the extra 'decode' is not installed")
    monkeypatch.setattr(tiny_clip.model.visual, "preprocess_cfg", asdict(PreprocessCfg(size=(32, 32))), raising=False)
    turning = replace(tiny_clip, preprocess=Preprocess(PixelsConfig(orientation="apply"), tiny_clip.preprocess))
    fast, slow = pixel_reader(turning, "torchcodec"), pixel_reader(turning, "pil")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = photo(tmp_path / "a.jpg", exif=exif)
    assert torch.equal(fast(path), slow(path))
    assert not torch.equal(slow(path), pixel_reader(tiny_clip, "pil")(path))
