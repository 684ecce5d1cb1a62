"""Images encoded by onnxruntime against torch: the same features within a tolerance, kept apart in the cache."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from scoring_world import make_prompts, run, write_artifact, write_images

from negprompt_cli.data.encoding.cache_folder import cache_folder, list_stores, towers_folder
from negprompt_cli.data.encoding.onnx_clip import TOLERANCE, run_by_onnx
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError


def test_features_are_those_of_torch_and_the_tower_is_kept(clip: Clip, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the runtime onnx needs the extra 'export'")
    ours = run_by_onnx(clip, keep=True)
    assert ours.difference <= TOLERANCE
    for count in (1, 4, 7):
        size = clip.preprocess(Image.new("RGB", (9, 9))).shape
        pixels = torch.randn(count, *size, generator=torch.Generator().manual_seed(count))
        features = ours.encode_images(pixels)
        assert features.shape == (count, ours.encode_images(pixels[:1]).shape[1]) and features.dtype == torch.float32
        assert (features - clip.encode_images(pixels)).abs().max() <= 1e-5

    [tower] = towers_folder().iterdir()
    written = tower.stat().st_mtime_ns
    run_by_onnx(clip, keep=True)
    assert tower.stat().st_mtime_ns == written

    # The command: the same rows within the tolerance, and features of its own in the cache.
    artifact = write_artifact(make_prompts(clip), tmp_path / "negative.safetensors")
    write_images(tmp_path / "images", 3)
    common = ("score", tmp_path / "images", "--prompts", artifact, "--device", "cpu", "--workers", 0)
    by_onnx, by_torch = run(*common, "--runtime", "onnx"), run(*common)
    assert by_onnx.exit_code == by_torch.exit_code == 0, by_onnx.output
    assert "Image encoder: onnxruntime" in by_onnx.stderr
    rows = [list(csv.DictReader(done.stdout.splitlines())) for done in (by_onnx, by_torch)]
    for one, other in zip(*rows, strict=True):
        assert one["prediction"] == other["prediction"]
        assert float(one["score"]) == pytest.approx(float(other["score"]), abs=1e-3)
    assert sum("texts" not in store.precision for store in list_stores()) == 2
    refused = run(*common, "--prompts", tmp_path / "detector.onnx", "--runtime", "torch")
    assert refused.exit_code == 2 and "--runtime" in refused.stderr

    assert "image encoders" in run("cache", "ls").stdout
    assert run("cache", "clear").exit_code == 0
    assert not towers_folder().exists() and cache_folder().exists()


def test_other_devices_and_missing_libraries_are_refused(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    half = replace(clip, compute=replace(clip.compute, dtype=torch.bfloat16))
    with pytest.raises(UsageError, match="CPU in fp32"):
        run_by_onnx(half, keep=False)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"negprompt\[export\]"):
        run_by_onnx(clip, keep=False)
