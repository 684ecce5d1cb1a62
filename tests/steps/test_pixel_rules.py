"""How image files are read is recorded with the prompts, so that commands that start from them read alike and say so."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scoring_world import make_prompts, run, small_clip, write_artifact

from negprompt_cli.config import PixelsConfig
from negprompt_cli.engine.clip import Clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return small_clip(tmp_path_factory.mktemp("model"))


@pytest.fixture
def twelve(tmp_path: Path) -> Path:
    """A photo of 12 bits in 16, and the same in 8 bits beside it."""
    values = np.random.default_rng(3).integers(0, 4096, (40, 50))
    values[0, :2] = 0, 4095
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(values.astype(np.uint16)).save(folder / "twelve.png")
    Image.fromarray(np.rint(values / 4095 * 255).astype(np.uint8)).save(folder / "eight.png")
    return folder


def test_an_artifact_brings_the_rules_it_was_made_with(clip: Clip, twelve: Path, tmp_path: Path) -> None:
    prompts = make_prompts(clip)
    plain = write_artifact(prompts, tmp_path / "plain.safetensors")
    model = prompts.config.model.model_copy(update={"pixels": PixelsConfig(values=4095)})
    told = replace(prompts, config=prompts.config.model_copy(update={"model": model}))
    deep = write_artifact(told, tmp_path / "deep.safetensors")
    common = ("score", twelve, "--device", "cpu", "--workers", 0)

    refused = run(*common, "--prompts", plain)
    rows = {Path(row["path"]).name: row for row in csv.DictReader(refused.stdout.splitlines())}
    assert "0 to 4095" in rows["twelve.png"]["error"] and "model.pixels.values" in rows["twelve.png"]["error"]
    assert run(*common, "--prompts", plain, "--on-error", "stop").exit_code == 1

    done = run(*common, "--prompts", deep)
    rows = {Path(row["path"]).name: row for row in csv.DictReader(done.stdout.splitlines())}
    assert float(rows["twelve.png"]["score"]) == pytest.approx(float(rows["eight.png"]["score"]), abs=1e-6)
    assert "images are read by model.pixels: values 4095" in done.stderr

    document = json.loads(run(*common, "--prompts", deep, "--json", "--out", tmp_path / "rows.csv").stdout)
    [decision] = [d for d in document["decisions"] if d["kind"] == "values-scaled"]
    assert decision["facts"] == {"values": 4095}
    shown = json.loads(run("inspect", deep, "--json").stdout)
    assert shown["pixels"] == {"values": 4095, "alpha": "drop", "orientation": "ignore"}
    # What is given now wins.
    row = run(*common, "--prompts", deep, "--set", "model.pixels.values=auto")
    assert "0 to 4095" in row.stdout


def test_check_and_leave_out_take_the_same_choice(twelve: Path, tmp_path: Path) -> None:
    for key in ("cat", "dog", "fox"):
        folder = tmp_path / "set" / key
        folder.mkdir(parents=True)
        for i in range(4):
            values = np.random.default_rng([i, len(key), ord(key[0])]).integers(0, 4096, (64, 64))
            Image.fromarray(values.astype(np.uint16)).save(folder / f"{i}.png")
    refused = run("data", "check", tmp_path / "set")
    assert refused.exit_code == 1 and "values: 12 images have values that do not fit" in refused.output
    assert run("data", "check", tmp_path / "set", "--values", "4095").exit_code == 0
    assert "model.pixels.values" in run("data", "check", tmp_path / "set", "--values", "dark").stderr
    common = ("data", "leave-out", tmp_path / "set", "--kinds", "down", "--into")
    assert "model.pixels.values" in run(*common, tmp_path / "a").stderr
    made = run(*common, tmp_path / "b", "--values", "4095")
    assert made.exit_code == 0, made.stderr
    shrunk = [np.asarray(Image.open(path)) for path in (tmp_path / "b" / "down").iterdir()]
    assert shrunk and all(abs(image.mean() - 127) < 5 for image in shrunk)
