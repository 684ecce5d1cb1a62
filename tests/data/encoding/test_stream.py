"""Streams with the feature cache: the same batches as without it, and no image encoded twice."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from recorder import Recorder
from torch import Tensor

from negprompt_cli.data.encoding import decoders as decoders_module
from negprompt_cli.data.encoding.batches import Batch
from negprompt_cli.data.encoding.features import EncodeOptions, encode_images, feature_store
from negprompt_cli.data.encoding.stream import Cache, stream_features
from negprompt_cli.data.sets.imagesets import load_image_set
from negprompt_cli.engine.clip import Clip

MakeImages = Callable[..., list[Path]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that are decoded in this process."""
    paths: list[Path] = []
    real = decoders_module.open_rgb
    monkeypatch.setattr(decoders_module, "open_rgb", lambda path, *rules: paths.append(path) or real(path, *rules))
    return paths


def stream(clip: Clip, paths: list[Path], listener: Recorder | None = None, *, size: int = 4) -> list[Batch]:
    told = listener or Recorder()
    cache = Cache(feature_store(clip, "pil", told, partial=True), told)
    return list(stream_features(clip, iter(paths), batch_size=size, workers=0, cache=cache))


def features_of(batches: list[Batch]) -> dict[Path, Tensor]:
    rows: dict[Path, Tensor] = {}
    for batch in batches:
        good = [path for path, error in zip(batch.paths, batch.errors, strict=True) if error is None]
        rows |= zip(good, batch.features if batch.features is not None else (), strict=True)
    return rows


@pytest.mark.parametrize("size", [1, 4, 16])
def test_a_stream_with_a_cache_is_the_stream_without(
    size: int, tiny_clip: Clip, make_images: MakeImages, opened: list[Path]
) -> None:
    paths = make_images(19)
    paths[5].write_bytes(b"")
    paths.insert(7, paths[0].with_name("gone.jpg"))
    plain = list(stream_features(tiny_clip, iter(paths), batch_size=size, workers=0))
    opened.clear()
    stream(tiny_clip, paths[3:14:2], size=size)
    some = set(opened)
    opened.clear()
    cached = stream(tiny_clip, paths, size=size)
    assert not some & set(opened) - {paths[5], paths[7]}
    again = stream(tiny_clip, paths, size=size)
    for batches in (cached, again):
        assert [batch.paths for batch in batches] == [batch.paths for batch in plain]
        assert [batch.errors for batch in batches] == [batch.errors for batch in plain]
        for path, row in features_of(plain).items():
            torch.testing.assert_close(features_of(batches)[path], row, rtol=0, atol=1e-6)
    assert sum(batch.known for batch in again) == 18
    assert all(torch.equal(features_of(cached)[path], row) for path, row in features_of(again).items())


def test_a_changed_file_is_encoded_again(tiny_clip: Clip, make_images: MakeImages, opened: list[Path]) -> None:
    paths = make_images(6)
    stream(tiny_clip, paths)
    opened.clear()
    stat = paths[2].stat()
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    stream(tiny_clip, paths)
    assert opened == [paths[2]]


def test_a_stream_and_an_encoding_know_each_others_images(
    tiny_clip: Clip, make_images: MakeImages, opened: list[Path]
) -> None:
    paths = make_images(10)
    images = load_image_set(str(paths[0].parent), role="ood", data_root=Path())
    options = EncodeOptions(batch_size=4, workers=0)
    alone = encode_images(tiny_clip, images, EncodeOptions(batch_size=4, workers=0, cache=False), Recorder())
    opened.clear()
    stream(tiny_clip, paths)
    assert opened == paths
    opened.clear()
    # The last two are a batch of another size, whose features are rounded otherwise.
    assert torch.equal(encode_images(tiny_clip, images, options, Recorder()).features, alone.features)
    assert opened == paths[8:]
    opened.clear()
    stream(tiny_clip, paths)
    assert opened == []


def test_many_short_streams_leave_few_files(tiny_clip: Clip, make_images: MakeImages, tmp_path: Path) -> None:
    paths = make_images(80)
    store = feature_store(tiny_clip, "pil", Recorder())
    for start in range(0, 70, 2):
        stream(tiny_clip, paths[start : start + 2])
    assert len(list(Path(os.environ["NEGPROMPT_CACHE"]).rglob("*.safetensors"))) < 8
    assert sum(batch.known for batch in stream(tiny_clip, paths)) == 70
    assert store.get([b"0" * 16])[0] is None, "features of batches of other sizes are for streams alone"


def test_what_was_encoded_before_a_stream_was_left_is_known(
    tiny_clip: Clip, make_images: MakeImages, opened: list[Path]
) -> None:
    paths = make_images(12)
    told = Recorder()
    cache = Cache(feature_store(tiny_clip, "pil", told, partial=True), told)
    left = stream_features(tiny_clip, iter(paths), batch_size=4, workers=0, cache=cache)
    next(left)
    left.close()
    assert next(iter(stream(tiny_clip, paths))).known == 4


def test_a_cache_that_cannot_be_written_is_told_once(
    tiny_clip: Clip, make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEGPROMPT_CACHE", str(tmp_path / "file"))
    listener = Recorder()
    assert len(features_of(stream(tiny_clip, make_images(9), listener))) == 9
    (warning,) = listener.warned
    assert "feature cache cannot be written" in warning


def test_a_known_list_without_end_is_read_as_it_is_used(tiny_clip: Clip, make_images: MakeImages) -> None:
    paths = make_images(4)
    stream(tiny_clip, paths)
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield paths[taken % 4]

    told = Recorder()
    cache = Cache(feature_store(tiny_clip, "pil", told, partial=True), told)
    batches = stream_features(tiny_clip, endless(), batch_size=4, workers=0, cache=cache)
    assert [batch.known for batch in islice(batches, 100)] == [4] * 100
    batches.close()
    assert taken < 100 * 4 + 100
