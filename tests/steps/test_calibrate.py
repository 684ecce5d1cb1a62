"""The threshold in the artifact: the one evaluation uses, found again by scoring, and refused where it means nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scoring_world import NAMES, calibrated, make_prompts, run, write_artifact, write_images

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.engine.clip import Clip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each class held out, and forty of something else."""
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(NAMES):
        write_images(folder / "id/train" / name.replace(" ", "_"), 1, seed=100 + seed)
        write_images(folder / "id/val" / name.replace(" ", "_"), 10, seed=seed)
    write_images(folder / "ood", 40, seed=50)
    return folder


@pytest.fixture
def artifact(clip: Clip, tmp_path: Path) -> Path:
    return write_artifact(make_prompts(clip), tmp_path / "negative.safetensors")


def on(artifact: Path, data: Path, clip: Clip) -> list[object]:
    return ["--data", data / "id", "--prompts", artifact, "--device", "cpu", "--workers", 0]


def test_scoring_catches_as_many_as_evaluation_says(clip: Clip, data: Path, artifact: Path, tmp_path: Path):
    done = run("calibrate", *on(artifact, data, clip), "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["images"], document["accepted"]) == (30, 29)
    assert 0.8 < document["low"] < 29 / 30 < document["high"] <= 1
    made = load_prompts(artifact)
    assert made.calibration is not None
    assert document["sha256"] == made.sha256
    assert made.calibration.score == "negprompt"
    assert "About 160" in done.stderr
    evaluated = run(
        "evaluate", *on(artifact, data, clip), "--ood", data / "ood", "--out", tmp_path / "e.json", "--json",
        "--scores", "negprompt",
    )  # fmt: skip
    row = json.loads(evaluated.stdout)["rows"][0]
    scored = run("score", data / "ood", "--prompts", artifact, "--device", "cpu", "--format", "jsonl")
    caught = [json.loads(line)["is_ood"] for line in scored.stdout.splitlines()]
    assert caught.count(True) == round(40 * (1 - row["fpr95_id_positive"]))
    own = run("score", data / "id/val", "--prompts", artifact, "--device", "cpu", "--format", "jsonl")
    assert [json.loads(line)["is_ood"] for line in own.stdout.splitlines()].count(False) == 29


def test_another_score_and_share(clip: Clip, data: Path, artifact: Path, tmp_path: Path):
    out = tmp_path / "other.safetensors"
    before = artifact.read_bytes()
    asked = ["--score", "logit-gap", "--acceptance", 0.8, "--confidence", 0.5, "--out", out]
    asked += ["--set", "evaluate.next_classes=2"]
    assert run("calibrate", *on(artifact, data, clip), *asked).exit_code == 0
    assert artifact.read_bytes() == before
    made = load_prompts(out).calibration
    assert made is not None
    assert (made.score, made.next_classes, made.accepted, made.confidence) == ("logit-gap", 2, 24, 0.5)
    rows = run("score", data / "id/val", "--prompts", out, "--device", "cpu", "--format", "jsonl").stdout.splitlines()
    scores = np.array([json.loads(line)["score"] for line in rows])
    assert (scores >= made.threshold).sum() == 24
    # The artifact's own N counts, whatever the default is; before it was calibrated the configuration's does.
    assert sorted(scores) == pytest.approx(made.scores)
    uncalibrated = ["--score", "logit-gap", "--device", "cpu", "--format", "jsonl", "--set"]
    for count, same in ((2, True), (1, False)):
        asked = [*uncalibrated, f"evaluate.next_classes={count}"]
        found = run("score", data / "id/val", "--prompts", artifact, *asked).stdout.splitlines()
        assert (sorted(json.loads(line)["score"] for line in found) == pytest.approx(made.scores)) is same


def test_contexts_stay_what_they_were(clip: Clip, data: Path, artifact: Path):
    before = load_prompts(artifact)
    run("calibrate", *on(artifact, data, clip))
    after = load_prompts(artifact)
    assert after.positive.equal(before.positive)
    assert before.negative is not None and after.negative is not None
    assert after.negative.equal(before.negative)
    assert after.classes == before.classes


def test_too_few_images_are_refused_before_any_is_read(clip: Clip, data: Path, artifact: Path, tmp_path: Path):
    few = shutil.copytree(data / "id", tmp_path / "few")
    for path in few.glob("val/*/00[2-9].png"):
        path.write_bytes(b"broken")
        path.rename(path.with_suffix(".txt"))
    before = artifact.read_bytes()
    result = run("calibrate", *on(artifact, data, clip), "--data", few)
    assert result.exit_code == 2
    assert "6 held-out ID images" in result.stderr
    assert "20 are needed" in result.stderr
    assert artifact.read_bytes() == before


def test_a_threshold_is_not_replaced_unasked(clip: Clip, data: Path, tmp_path: Path):
    artifact = write_artifact(calibrated(make_prompts(clip), 0.5), tmp_path / "negative.safetensors")
    refused = run("calibrate", *on(artifact, data, clip))
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert run("calibrate", *on(artifact, data, clip), "--overwrite").exit_code == 0
    made = load_prompts(artifact).calibration
    assert made is not None and made.threshold != 0.5


def test_a_transfer_leaves_the_threshold_behind(clip: Clip, tmp_path: Path):
    artifact = write_artifact(calibrated(make_prompts(clip), 0.5), tmp_path / "negative.safetensors")
    (tmp_path / "novel.txt").write_text("yellow star\n")
    out = tmp_path / "novel.safetensors"
    asked = ["--classes", tmp_path / "novel.txt", "--prompts", artifact, "--out", out, "--device", "cpu"]
    assert run("transfer", *asked).exit_code == 0
    assert load_prompts(out).calibration is None


@pytest.mark.parametrize("asked", [["--acceptance", "95"], ["--confidence", "0"], ["--score", "mahalanobis"]])
def test_nonsense_is_refused(clip: Clip, data: Path, artifact: Path, asked: list[str]):
    result = run("calibrate", *on(artifact, data, clip), *asked)
    assert result.exit_code == 2
    assert not result.stdout


def test_a_damaged_calibration_is_refused(clip: Clip, tmp_path: Path):
    prompts = calibrated(make_prompts(clip), 0.5)
    assert prompts.calibration is not None
    wrong = prompts.calibration.model_copy(update={"low": 7.0})
    artifact = write_artifact(replace(prompts, calibration=wrong), tmp_path / "wrong.safetensors")
    write_images(tmp_path / "photos", 1)
    result = run("score", tmp_path / "photos", "--prompts", artifact)
    assert result.exit_code == 2
    assert "was changed later: calibration, low must be at most 1" in result.stderr and "Make it again" in result.stderr


def test_without_data_the_held_out_images_are_those_of_the_training_data(clip: Clip, data: Path, tmp_path: Path):
    prompts = make_prompts(clip)
    config = prompts.config.model_copy(
        update={"data": prompts.config.data.model_copy(update={"spec": str(data / "id")})}
    )
    path = write_artifact(replace(prompts, config=config), tmp_path / "negative.safetensors")
    asked = ("calibrate", "--prompts", path, "--model", clip.identity.name, "--device", "cpu", "--workers", 0)
    result = run(*asked, "--overwrite")
    assert result.exit_code == 0 and f"trained on {data / 'id'}" in result.stderr
    made = load_prompts(path).calibration
    assert made is not None and made.data == str(data / "id")
    refused = run(*asked, "--overwrite", "--acceptance", "0.999")
    assert refused.exit_code == 2 and f"{made.images} images are enough for " in refused.stderr.replace("\n", " ")
