"""Image encoding against open_clip's `encode_image` on PIL images: values, order, broken files, interruption."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recorder import Recorder
from torch import Tensor
from torch.nn.functional import normalize

from negprompt_cli.data.encoding import decoders as decoders_module
from negprompt_cli.data.encoding import feature_cache
from negprompt_cli.data.encoding.batches import FEW_IMAGES, Reading, run_batches
from negprompt_cli.data.encoding.features import EncodedSet, EncodeOptions, encode_images
from negprompt_cli.data.encoding.images import BrokenImage
from negprompt_cli.data.sets.imagepaths import ImagePaths
from negprompt_cli.data.sets.imagesets import ImageSet
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError, UsageError

MakeImages = Callable[..., list[Path]]


def image_set(paths: list[Path]) -> ImageSet:
    root = paths[0].parent
    return ImageSet(
        spec="test",
        name="test",
        paths=ImagePaths(root, [p.name for p in paths]),
        labels=np.arange(len(paths)) % 3,
        classes=(),
        root=root,
        layout="test",
        decisions=(),
    )


def encode(clip: Clip, paths: list[Path], listener: Recorder | None = None, **options: Any) -> EncodedSet:
    return encode_images(clip, image_set(paths), EncodeOptions(**{"workers": 0, **options}), listener or Recorder())


def reference(clip: Clip, paths: list[Path]) -> Tensor:
    """One image at a time through open_clip's own call."""
    with torch.inference_mode():
        rows = [clip.model.encode_image(clip.preprocess(Image.open(p).convert("RGB"))[None]) for p in paths]
        return normalize(torch.cat(rows), dim=-1)


def test_features_equal_encode_image(tiny_clip: Clip, make_images: MakeImages) -> None:
    paths = make_images(11)
    listener = Recorder()
    encoded = encode(tiny_clip, paths, listener, batch_size=4)
    torch.testing.assert_close(encoded.features, reference(tiny_clip, paths), rtol=0, atol=1e-6)
    assert encoded.labels.tolist() == [i % 3 for i in range(11)]
    assert encoded.skipped == ()
    assert (listener.totals, listener.advanced) == ([11], 11)
    assert not encoded.features.is_inference(), "features could not take part in training"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("batch_size", [3, 32])
def test_workers_change_nothing(workers: int, batch_size: int, tiny_clip: Clip, make_images: MakeImages) -> None:
    paths = make_images(FEW_IMAGES + 2 * batch_size)
    alone = encode(tiny_clip, paths, cache=False, batch_size=batch_size)
    helped = encode(tiny_clip, paths, cache=False, batch_size=batch_size, workers=workers)
    assert torch.equal(alone.features, helped.features)
    assert torch.equal(alone.labels, helped.labels)


def who_reads(image: Image.Image) -> Tensor:
    """In the place of a preprocessing: three pixels that tell the process, its parent, and whether it has a main script."""
    facts = [os.getpid(), os.getppid(), hasattr(sys.modules["__main__"], "__file__")]
    return torch.tensor(facts, dtype=torch.float64).reshape(3, 1, 1)


def test_workers_are_not_forked_from_this_process_and_run_no_main_script(
    tiny_clip: Clip, make_images: MakeImages
) -> None:
    paths = make_images(FEW_IMAGES + 20)
    batches = [paths[i : i + 4] for i in range(0, len(paths), 4)]
    asking = replace(tiny_clip, preprocess=who_reads)
    done = list(run_batches(asking, batches, lambda _, pixels: {"who": pixels.flatten(1)}, Reading(workers=2)))
    who = torch.cat([batch.results["who"] for batch in done])
    assert [path for batch in done for path in batch.paths] == paths
    assert (who[:, 0] == os.getpid()).tolist() == [True] * (FEW_IMAGES + 4) + [False] * 16
    helped = who[FEW_IMAGES + 4 :]
    assert len(set(helped[:, 0].tolist())) == 2
    assert not (helped[:, 1] == os.getpid()).any(), "this process has threads"
    assert not helped[:, 2].any()


def test_known_images_are_not_decoded_again(
    tiny_clip: Clip, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_images(9)
    first = encode(tiny_clip, paths)
    opened: list[Path] = []
    real = decoders_module.open_rgb
    monkeypatch.setattr(decoders_module, "open_rgb", lambda path, *rules: opened.append(path) or real(path, *rules))
    again = encode(tiny_clip, paths)
    assert opened == []
    assert torch.equal(again.features, first.features)
    # Any other list of the same files is known too.
    assert torch.equal(encode(tiny_clip, paths[::-2]).features, first.features[[8, 6, 4, 2, 0]])
    # And a link to one of them.
    link = paths[0].with_name("link.jpg")
    link.symlink_to(paths[4])
    assert torch.equal(encode(tiny_clip, [link]).features, first.features[[4]])
    assert opened == []


def test_without_a_cache_nothing_is_remembered(
    tiny_clip: Clip, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_images(3)
    encode(tiny_clip, paths, cache=False)
    opened: list[Path] = []
    real = decoders_module.open_rgb
    monkeypatch.setattr(decoders_module, "open_rgb", lambda path, *rules: opened.append(path) or real(path, *rules))
    encode(tiny_clip, paths, cache=False)
    assert opened == paths


def test_a_changed_file_is_encoded_again_and_no_other(
    tiny_clip: Clip, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_images(5)
    before = encode(tiny_clip, paths)
    Image.new("RGB", (48, 48), (200, 30, 90)).save(paths[3])
    opened: list[Path] = []
    real = decoders_module.open_rgb
    monkeypatch.setattr(decoders_module, "open_rgb", lambda path, *rules: opened.append(path) or real(path, *rules))
    after = encode(tiny_clip, paths)
    assert opened == [paths[3]]
    torch.testing.assert_close(after.features, reference(tiny_clip, paths), rtol=0, atol=1e-6)
    assert torch.equal(after.features[[0, 1, 2, 4]], before.features[[0, 1, 2, 4]])


def test_a_broken_image_stops_the_job_and_what_was_encoded_is_kept(
    tiny_clip: Clip, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_images(8)
    good = paths[6].read_bytes()
    paths[6].write_bytes(good[:200])
    with pytest.raises(BrokenImage, match=r"0006\.jpg"):
        encode(tiny_clip, paths, batch_size=2)
    paths[6].write_bytes(good)
    opened: list[Path] = []
    real = decoders_module.open_rgb
    monkeypatch.setattr(decoders_module, "open_rgb", lambda path, *rules: opened.append(path) or real(path, *rules))
    whole = encode(tiny_clip, paths, batch_size=2)
    assert paths[6] in opened
    assert len(opened) < 8
    torch.testing.assert_close(whole.features, reference(tiny_clip, paths), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("workers", "count"), [(0, 7), (2, FEW_IMAGES + 10)])
def test_broken_images_can_be_skipped(workers: int, count: int, tiny_clip: Clip, make_images: MakeImages) -> None:
    paths = make_images(count)
    paths[0].write_bytes(b"")
    paths[-3].write_bytes(b"not an image")
    listener = Recorder()
    encoded = encode(tiny_clip, paths, listener, on_error="skip", batch_size=2, workers=workers)
    good = [p for p in paths if p not in (paths[0], paths[-3])]
    torch.testing.assert_close(encoded.features, reference(tiny_clip, good), rtol=0, atol=1e-6)
    assert encoded.labels.tolist() == [i % 3 for i, p in enumerate(paths) if p in good]
    assert list(encoded.images.paths) == good
    assert encoded.skipped == (str(paths[0]), str(paths[-3]))
    assert [str(path) in reason for path, reason in zip(encoded.skipped, encoded.reasons, strict=True)] == [True, True]
    assert listener.advanced == count
    again = encode(tiny_clip, paths, on_error="skip", batch_size=2, workers=workers)
    assert torch.equal(again.features, encoded.features), (
        "the good ones are in the cache, the broken ones are broken still"
    )
    assert again.skipped == encoded.skipped


def test_a_set_of_only_broken_images_is_an_error(tiny_clip: Clip, make_images: MakeImages) -> None:
    paths = make_images(2)
    for path in paths:
        path.write_bytes(b"x")
    with pytest.raises(UsageError, match="none of its 2 images can be read"):
        encode(tiny_clip, paths, on_error="skip")


def test_a_file_that_vanished_is_an_error(tiny_clip: Clip, make_images: MakeImages) -> None:
    paths = make_images(3)
    paths[1].unlink()
    with pytest.raises(NegPromptError, match=r"0001\.jpg was removed"):
        encode(tiny_clip, paths)


def test_an_interrupted_job_goes_on_where_it_stopped(
    tiny_clip: Clip, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "SHARD_IMAGES", 4)
    paths = make_images(20)
    real, calls = decoders_module.open_rgb, []

    def interrupted(path: Path, *rules: object) -> Image.Image:
        calls.append(path)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return real(path, *rules)

    monkeypatch.setattr(decoders_module, "open_rgb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(tiny_clip, paths, batch_size=2)
    opened: list[Path] = []
    monkeypatch.setattr(decoders_module, "open_rgb", lambda path, *rules: opened.append(path) or real(path, *rules))
    encoded = encode(tiny_clip, paths, batch_size=2)
    # Two batches may be on their way when the interruption comes; all earlier ones are on disk.
    assert opened[-1] == paths[-1]
    assert len(opened) <= 20 - 8
    torch.testing.assert_close(encoded.features, reference(tiny_clip, paths), rtol=0, atol=1e-6)


def test_a_batch_too_large_for_the_device_is_halved(
    tiny_clip: Clip, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_images(9)
    real, sizes = Clip.encode_images, []

    def limited(clip: Clip, pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("simulated")
        return real(clip, pixels)

    monkeypatch.setattr(Clip, "encode_images", limited)
    encoded = encode(tiny_clip, paths, batch_size=9)
    assert max(sizes) == 9
    torch.testing.assert_close(encoded.features, reference(tiny_clip, paths), rtol=0, atol=1e-6)


def test_real_model_on_real_images(lite_clip_folder: Path, real_images: Path) -> None:
    import open_clip

    from negprompt_cli.config import ModelConfig
    from negprompt_cli.data.encoding.models import load_clip
    from negprompt_cli.engine.devices import choose_compute

    paths = sorted((real_images / "imagenette" / "val").glob("*/*"))[::80]
    clip = load_clip(ModelConfig(name=f"local-dir:{lite_clip_folder}", pretrained=None), choose_compute("cpu"))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{lite_clip_folder}")
    with torch.inference_mode():
        pixels = torch.stack([preprocess(Image.open(p).convert("RGB")) for p in paths])
        theirs = model.eval().encode_image(pixels, normalize=True)
    root = real_images / "imagenette" / "val"
    images = ImageSet(
        spec="x",
        name="x",
        paths=ImagePaths(root, [str(p.relative_to(root)) for p in paths]),
        labels=np.zeros(len(paths), dtype=np.int64),
        classes=(),
        root=root,
        layout="test",
        decisions=(),
    )
    ours = encode_images(clip, images, EncodeOptions(workers=0), Recorder())
    torch.testing.assert_close(ours.features, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_features_do_not_depend_on_what_the_cache_knew(tiny_clip: Clip, make_images: MakeImages, threads: int) -> None:
    paths = make_images(23)
    whole = encode(tiny_clip, paths, cache=False, batch_size=8).features
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        encode(tiny_clip, paths[3:10:2], batch_size=8)
        encode(tiny_clip, paths[::5], batch_size=8)
        assert torch.equal(encode(tiny_clip, paths, batch_size=8).features, whole)
    finally:
        torch.set_num_threads(before)
