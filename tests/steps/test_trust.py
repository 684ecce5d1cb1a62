"""What a calibrated detector can promise: p-values beside scores, selection at a false discovery rate, whole deliveries."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control
from scoring_world import NAMES, calibrated, make_prompts, run, write_artifact, write_images

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.engine.clip import Clip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of each class held out, and thirty more."""
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(NAMES):
        write_images(folder / "id/train" / name.replace(" ", "_"), 1, seed=100 + seed)
        write_images(folder / "id/val" / name.replace(" ", "_"), 20, seed=seed)
    write_images(folder / "new", 30, seed=50)
    return folder


@pytest.fixture(scope="module")
def artifact(clip: Clip, data: Path) -> Path:
    path = write_artifact(make_prompts(clip), data / "negative.safetensors")
    done = run("calibrate", "--data", data / "id", "--prompts", path, "--device", "cpu", "--workers", 0)
    assert done.exit_code == 0, done.output
    return path


def scored(artifact: Path, *arguments: object, code: int = 0) -> list[dict[str, object]]:
    result = run("score", *arguments, "--prompts", artifact, "--device", "cpu", "--workers", 0, "--format", "jsonl")
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_p_values_are_shares_of_the_calibration_images(artifact: Path, data: Path):
    known = [row["score"] for row in scored(artifact, data / "id/val")]
    made = load_prompts(artifact).calibration
    assert made is not None
    assert np.allclose(made.scores, sorted(known), atol=1e-6)
    for row in scored(artifact, data / "new"):
        count = sum(score <= row["score"] for score in made.scores)
        assert row["p_value"] == (1 + count) / (60 + 1)


def test_another_score_than_the_calibrated_one_has_no_p_values(artifact: Path, data: Path):
    assert {row["p_value"] for row in scored(artifact, data / "new", "--score", "mcm")} == {None}


def test_selection_is_benjamini_hochbergs_and_broken_images_stay_broken(artifact: Path, data: Path, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"")
    images = [data / "new", tmp_path / "broken.png", data / "id/val"]
    plain, chosen = scored(artifact, *images), scored(artifact, *images, "--fdr", 0.3)
    assert [row["path"] for row in plain] == [row["path"] for row in chosen]
    judged = [row for row in chosen if row["error"] is None]
    assert len(judged) == len(chosen) - 1 == 90
    adjusted = false_discovery_control([row["p_value"] for row in judged])
    assert [row["is_ood"] for row in judged] == [bool(p <= 0.3) for p in adjusted]
    (broken,) = (row for row in chosen if row["error"])
    assert broken["is_ood"] is None


def test_a_selection_sorts_by_what_it_selected(artifact: Path, data: Path, tmp_path: Path):
    chosen = scored(artifact, data / "new", "--fdr", 0.9, "--sort-into", tmp_path / "sorted")
    assert len(list((tmp_path / "sorted/ood").glob("*"))) == sum(row["is_ood"] for row in chosen)


def test_deliveries_are_told_apart_with_an_exit_code_of_their_own(
    clip: Clip, artifact: Path, data: Path, tmp_path: Path
):
    same = ["score", data / "id/val", "--prompts", artifact, "--device", "cpu", "--workers", 0]
    out = tmp_path / "rows.csv"
    clean = run(*same, "--out", out, "--json", "--batch-verdict", "--fail-on-shift")
    assert clean.exit_code == 0, clean.output
    verdict = json.loads(clean.stdout)["delivery"]
    assert (verdict["images"], verdict["shifted"]) == (60, False)
    # Three of sixty are below the threshold; one more is exactly on it, where rounding may fall either way.
    assert verdict["rejected"] in (3, 4)
    # The same images against calibration images that all score higher.
    prompts = load_prompts(artifact)
    assert prompts.calibration is not None
    higher = tuple(score + 1 for score in prompts.calibration.scores)
    moved = prompts.calibration.model_copy(update={"scores": higher, "threshold": prompts.calibration.threshold + 1})
    shifted = write_artifact(replace(prompts, calibration=moved), tmp_path / "moved.safetensors")
    asked = ["score", data / "id/val", "--prompts", shifted, "--device", "cpu", "--workers", 0]
    assert run(*asked, "--batch-verdict").exit_code == 0
    found = run(*asked, "--fail-on-shift")
    assert found.exit_code == 5
    assert "HAVE SHIFTED" in found.stderr


def test_without_calibration_there_is_nothing_to_compare_with(clip: Clip, data: Path, tmp_path: Path):
    path = write_artifact(make_prompts(clip), tmp_path / "plain.safetensors")
    for asked in (["--fdr", 0.1], ["--batch-verdict"], ["--fail-on-shift"]):
        result = run("score", data / "new", "--prompts", path, "--device", "cpu", *asked)
        assert result.exit_code == 2
        assert "negprompt calibrate" in result.stderr
        assert not result.stdout


def test_a_selection_cannot_be_appended_to(artifact: Path, data: Path, tmp_path: Path):
    asked = ["--out", tmp_path / "rows.csv", "--append", "--fdr", 0.1]
    result = run("score", data / "new", "--prompts", artifact, "--device", "cpu", *asked)
    assert result.exit_code == 2
    assert "--append" in result.stderr


def test_thresholds_by_class_reject_by_the_predicted_class(clip: Clip, data: Path, tmp_path: Path):
    path = write_artifact(make_prompts(clip), tmp_path / "negative.safetensors")
    asked = ["--data", data / "id", "--prompts", path, "--acceptance", 0.8, "--by-class", "--device", "cpu"]
    done = run("calibrate", *asked, "--workers", 0)
    assert done.exit_code == 0, done.output
    made = load_prompts(path).calibration
    assert made is not None and made.by_class
    rows = scored(path, data / "id/val")
    for key, threshold in made.by_class.items():
        own = [row for row in rows if row["prediction"] == key]
        assert all(row["is_ood"] == (row["score"] < threshold) for row in own)
        assert np.mean([not row["is_ood"] for row in own]) >= 0.8
    others = [row for row in rows if row["prediction"] not in made.by_class]
    assert all(row["is_ood"] == (row["score"] < made.threshold) for row in others)


def test_calibration_scores_that_do_not_belong_are_refused(clip: Clip, data: Path, tmp_path: Path):
    prompts = calibrated(make_prompts(clip), 0.5)
    assert prompts.calibration is not None
    for wrong in (prompts.calibration.scores[1:], prompts.calibration.scores[::-1]):
        damaged = prompts.calibration.model_copy(update={"scores": wrong})
        path = write_artifact(replace(prompts, calibration=damaged), tmp_path / "wrong.safetensors")
        result = run("score", data / "new", "--prompts", path)
        assert result.exit_code == 2
        assert "ascending" in result.stderr
