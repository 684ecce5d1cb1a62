"""Models that are known without loading, and text features from the cache: what is trusted, and what is not."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from recorder import Recorder
from scoring_world import small_clip
from torch import Tensor

from negprompt_cli.config import ModelConfig
from negprompt_cli.data.encoding.cache_folder import clear_cache, models_folder
from negprompt_cli.data.encoding.decoders import pixel_reader
from negprompt_cli.data.encoding.features import feature_store
from negprompt_cli.data.encoding.known_model import open_clip_model
from negprompt_cli.data.encoding.text_features import text_features
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.devices import choose_compute
from negprompt_cli.errors import NegPromptError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_clip(tmp_path / "model")
    return tmp_path / "model"


def opened(folder: Path) -> Clip:
    return open_clip_model(ModelConfig(name=f"local-dir:{folder}", pretrained=None), choose_compute("cpu"))


def loads(folder: Path) -> bool:
    """Whether the model is loaded when it is opened; it is then remembered in a new record."""
    before = set(models_folder().glob("*"))
    opened(folder)
    return set(models_folder().glob("*")) > before


def weights(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


def test_a_known_model_is_used_like_the_loaded_one(folder: Path, tmp_path: Path) -> None:
    first, known = opened(folder), opened(folder)
    (record,) = models_folder().iterdir()
    record.unlink()
    for name in ("identity", "preprocessing", "logit_scale", "width", "text_path", "device"):
        assert getattr(known, name) == getattr(first, name)
    store = [feature_store(clip, "pil", Recorder())._folder for clip in (first, known)]
    assert store[0] == store[1]
    assert not record.exists()
    Image.effect_noise((60, 40), 50).convert("RGB").save(tmp_path / "image.png")
    for reader in (pixel_reader(known, "pil"), pickle.loads(pickle.dumps(pixel_reader(known, "pil")))):
        pixels = reader(tmp_path / "image.png")
        assert torch.equal(pixels, pixel_reader(first, "pil")(tmp_path / "image.png"))
    assert not record.exists()
    assert torch.equal(known.encode_images(pixels[None]), first.encode_images(pixels[None]))
    assert record.exists()
    template = {"template": "a photo of a {}.", "budget": 2**30}
    assert torch.equal(
        known.encode_template(["cat", "dog"], **template), first.encode_template(["cat", "dog"], **template)
    )


def test_changed_files_are_another_model(folder: Path) -> None:
    opened(folder)
    os.utime(weights(folder))
    assert loads(folder)
    assert not loads(folder)
    clear_cache()
    assert loads(folder)


def test_a_file_that_changed_and_kept_its_time_is_another_model(folder: Path) -> None:
    opened(folder)
    path = weights(folder)
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-4:] = bytes(4)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert loads(folder)


def test_a_model_that_is_not_the_remembered_one_stops_the_command_when_it_is_loaded(folder: Path) -> None:
    first = opened(folder)
    (record,) = models_folder().iterdir()
    record.write_text(record.read_text().replace(first.identity.weights_sha256, "0" * 64))
    known = opened(folder)
    with pytest.raises(NegPromptError, match="not the one that was loaded before"):
        known.encode_template(["cat"], template="{}", budget=2**30)
    assert opened(folder).encode_template(["cat"], template="{}", budget=2**30).isfinite().all()


def test_text_features_are_made_once_for_the_same_model_and_texts(folder: Path, tiny_clip: Clip) -> None:
    clip, made = opened(folder), iter(range(9))

    def features(of: Clip, *parts: bytes) -> Tensor:
        return text_features(of, parts, 2, lambda: torch.full((2, 3), float(next(made))), Recorder())

    assert features(clip, b"ab", b"c").tolist() == [[0] * 3] * 2
    assert features(opened(folder), b"ab", b"c").tolist() == [[0] * 3] * 2
    assert features(clip, b"a", b"bc").tolist() == [[1] * 3] * 2
    assert features(tiny_clip, b"ab", b"c").tolist() == [[2] * 3] * 2
    assert next(made) == 3


def test_a_cache_that_cannot_be_written_is_warned_of(
    tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEGPROMPT_CACHE", str(tmp_path / "file"))
    progress = Recorder()
    assert text_features(tiny_clip, [b"a"], 1, lambda: torch.ones(1, 3), progress).tolist() == [[1] * 3]
    assert "cannot be written" in progress.warned[0]
