"""Transfer: where the artifact goes, what is said of its classes, and what becomes of a threshold."""

import json
from pathlib import Path
from typing import Any

import pytest
from scoring_world import NAMES, calibrated, make_prompts, run, write_artifact, write_photos

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.engine.clip import Clip


@pytest.fixture
def artifact(clip: Clip, tmp_path: Path) -> Path:
    return write_artifact(calibrated(make_prompts(clip), 0.4), tmp_path / "mine" / "negative.safetensors")


def transferred(artifact: Path, names: str, *more: object) -> dict[str, Any]:
    result = run("transfer", "--prompts", artifact, "--classes", "-", "--device", "cpu", "--json", *more, stdin=names)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_the_artifact_goes_beside_its_source_unless_a_run_is_named(artifact: Path, tmp_path: Path):
    assert transferred(artifact, "cat\n")["path"] == str(artifact.with_name("transfer-stdin.safetensors"))
    elsewhere = transferred(artifact, "cat\n", "--run", tmp_path / "other")["path"]
    assert elsewhere == str(tmp_path / "other" / "transfer-stdin.safetensors")


def test_extend_says_what_is_learned_and_what_is_new(artifact: Path):
    document = transferred(artifact, "cat\nRed Circle\ncat\n", "--extend")
    assert document["classes"] == [*NAMES, "cat"]
    assert document["known"] == list(NAMES)
    assert document["new"] == ["cat"]
    told = {d["kind"]: d["facts"] for d in document["decisions"]}
    assert told["prompts-changed"] == {"names": ["Red Circle"]}
    assert told["classes-left-out"]["classes"] == ["cat"]
    result = run("transfer", "--prompts", artifact, "--classes", "-", "--extend", "--overwrite", stdin="cat\n")
    assert "of them learned" in result.stderr and "1: cat" in result.stderr


def test_a_threshold_is_left_out_with_a_word(artifact: Path):
    document = transferred(artifact, "cat\n", "--extend")
    (dropped,) = [d for d in document["decisions"] if d["kind"] == "threshold-dropped"]
    assert dropped["facts"]["threshold"] == 0.4
    assert load_prompts(Path(document["path"])).calibration is None
    # Without one there is nothing to say.
    again = transferred(Path(document["path"]), "cat\n", "--run", artifact.parent / "next")
    assert "threshold-dropped" not in [d["kind"] for d in again["decisions"]]


def test_calibrate_and_evaluate_tell_of_classes_without_images(artifact: Path, tmp_path: Path, clip: Clip):
    photos = write_photos(tmp_path / "photos", 16)
    path = Path(transferred(artifact, "cat\n", "--extend")["path"])
    on = ["--prompts", path, "--data", photos, "--device", "cpu", "--workers", 0]
    refused = run("calibrate", *on)
    assert refused.exit_code == 2
    assert "1 of the 4 classes" in refused.stderr and "cat" in refused.stderr
    assert load_prompts(path).calibration is None
    measured = run("evaluate", *on, "--ood", photos, "--scores", "max-logit", "--json", "--out", tmp_path / "e.json")
    assert measured.exit_code == 0, measured.output
    told = {d["kind"]: d["facts"] for d in json.loads(measured.stdout)["decisions"]}
    assert told["classes-left-out"]["classes"] == ["cat"]
    # The half that is evaluated plays OOD as well.
    assert told["id-images-in-ood"] == {"ood": "photos", "images": 24, "of": 48}
