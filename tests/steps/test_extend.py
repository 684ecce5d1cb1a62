"""Adding classes by images: the same contexts, a threshold for old and new classes, and a true account of what changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scoring_world import NAMES, run, write_images, write_photos

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.sets.imagesets import load_image_set
from negprompt_cli.data.sets.sampling import half
from negprompt_cli.engine.clip import Clip

FAST = ["--set", "positive.schedule.epochs=2", "--set", "negative.schedule.epochs=2"]
ON = ["--device", "cpu", "--workers", 0]


@pytest.fixture(scope="module")
def world(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of three classes, fitted on photos/, and images of a fourth."""
    folder = tmp_path_factory.mktemp("world")
    photos = write_photos(folder / "photos", 14)
    write_images(folder / "yellow_star", 11, seed=9)
    done = run(
        "fit", photos, "--model", clip.identity.name, *ON, *FAST, "--run", folder / "run", "--score", "max-logit"
    )
    assert done.exit_code == 0, done.output
    return folder


def extended(world: Path, images: object, *more: object) -> dict[str, Any]:
    source = world / "run/negative.safetensors"
    done = run("transfer", "--extend", "--images", images, "--prompts", source, *ON, "--json", *more)
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def accepted(prompts: Path, paths: list[Path]) -> int:
    done = run("score", *paths, "--prompts", prompts, *ON, "--format", "jsonl")
    return [json.loads(line)["is_ood"] for line in done.stdout.splitlines()].count(False)


def test_a_folder_of_one_class_is_added_and_the_account_is_what_scoring_says(world: Path):
    source = world / "run/negative.safetensors"
    before = source.read_bytes()
    document = extended(world, world / "yellow_star")
    out = Path(document["path"])
    assert out == world / "run/transfer-yellow_star.safetensors"
    assert source.read_bytes() == before
    assert document["classes"] == [*sorted(NAMES), "yellow star"]
    assert (document["known"], document["new"]) == (sorted(NAMES), ["yellow star"])
    old = list(load_image_set(str(world / "photos"), role="eval", data_root=world).paths)
    stars = sorted((world / "yellow_star").iterdir())
    new = [stars[i] for i in half(11, "yellow_star", seed=0, first=False)]
    found = document["extension"]
    for name, prompts, paths in (
        ("old_before", source, old),
        ("old_after", out, old),
        ("new_before", source, new),
        ("new_after", out, new),
    ):
        assert found[name]["images"] == len(paths)
        assert found[name]["accepted"] == pytest.approx(accepted(prompts, paths), abs=1)  # one may be on the threshold
    assert found["new_before"]["correct"] == 0
    right = sum(one["correct"] for one in found["classes"].values())
    assert right == found["old_after"]["correct"] + found["new_after"]["correct"]
    # The threshold is that of the old score, chosen on old and new images together.
    made, known = load_prompts(out), load_prompts(source)
    assert made.calibration is not None and known.calibration is not None
    assert made.calibration.images == len(old) + len(new) == 26
    assert made.calibration.score == known.calibration.score == "max-logit"
    assert made.positive.equal(known.positive)
    # It can be made again from what it records.
    verified = run("verify", out, "--device", "cpu", "--json")
    checks = {check["what"]: (check["status"], check["reason"]) for check in json.loads(verified.stdout)["checks"]}
    assert checks["contexts"][0] == checks["held-out images"][0] == "ok", checks
    # An extended detector is extended in the same way, and still knows where the images of its own new class are.
    write_images(world / "pink_dot", 4, seed=10)
    again = run("transfer", "--extend", "--images", world / "pink_dot", "--prompts", out, *ON)
    assert again.exit_code == 0, again.output
    assert "pink dot:" in again.stderr and "Old classes, 26 held-out images" in again.stderr
    (world / "more").mkdir()
    moved = (world / "yellow_star").rename(world / "more/yellow_star")
    asked = ["transfer", "--extend", "--prompts", out, *ON, "--out", world / "run/next.safetensors", "--images"]
    refused = run(*asked, world / "pink_dot")
    assert refused.exit_code == 2
    assert "yellow star" in refused.stderr and "--images" in refused.stderr
    both = run(*asked, f"{moved},{world / 'pink_dot'}")
    assert both.exit_code == 0, both.output
    assert "Old classes, 26 held-out images" in both.stderr
    moved.rename(world / "yellow_star")


def test_a_folder_of_old_and_new_classes_needs_no_other_data(world: Path, tmp_path: Path):
    every = tmp_path / "every"
    shutil.copytree(world / "photos", every)
    shutil.copytree(world / "yellow_star", every / "yellow_star")
    # What was trained on is not held out under another name.
    trained = load_image_set(str(world / "photos"), role="train", data_root=world).paths[0]
    held_out = load_image_set(str(every), role="eval", data_root=world).paths[0]
    held_out.write_bytes(trained.read_bytes())
    document = extended(world, every, "--out", tmp_path / "new.safetensors")
    assert document["calibration"]["images"] == 25
    (left,) = [d for d in document["decisions"] if d["kind"] == "duplicates-left-out"]
    assert left["facts"]["images"] == 1


def test_images_that_were_skipped_did_not_change(clip: Clip, world: Path, tmp_path: Path):
    photos = shutil.copytree(world / "photos", tmp_path / "photos")
    for role in ("train", "eval"):
        load_image_set(str(photos), role=role, data_root=world).paths[0].write_bytes(b"")  # type: ignore[arg-type]
    skip = [*ON, "--on-error", "skip"]
    source = tmp_path / "run/negative.safetensors"
    done = run("fit", photos, "--model", clip.identity.name, *skip, *FAST, "--run", source.parent)
    assert done.exit_code == 0, done.output
    done = run("transfer", "--extend", "--images", world / "yellow_star", "--prompts", source, *skip, "--json")
    document = json.loads(done.stdout)
    assert [d["facts"]["set"] for d in document["decisions"] if d["kind"] == "images-skipped"]
    assert not [d for d in document["decisions"] if d["kind"] == "training-data-changed"]
    for path in (source, Path(document["path"])):
        checked = run("verify", path)
        assert checked.exit_code == 0, checked.output


def test_without_the_old_images_the_way_out_is_named(world: Path, tmp_path: Path):
    source = shutil.copy(world / "run/negative.safetensors", tmp_path)
    hidden = (world / "photos").rename(tmp_path / "elsewhere")
    try:
        asked = ["transfer", "--extend", "--images", world / "yellow_star", "--prompts", source]
        refused = run(*asked, *ON)
        assert refused.exit_code == 2
        assert "--data" in refused.stderr and not list(tmp_path.glob("transfer*"))
        done = run(*asked, *ON, "--data", hidden, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["calibration"]["images"] == 26
    finally:
        hidden.rename(world / "photos")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["--images", "photos"], "--extend"),
        (["--extend"], "--images"),
        (["--extend", "--images", "photos", "--classes", "names.txt"], "--classes"),
        (["--extend", "--images", "photos"], "negprompt calibrate"),
    ],
)
def test_what_makes_no_sense_is_refused(world: Path, asked: list[str], named: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(world)
    refused = run("transfer", *asked, "--prompts", "run/negative.safetensors", *ON)
    assert refused.exit_code == 2
    assert named in refused.stderr
