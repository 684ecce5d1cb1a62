"""Corrections by hand: what was moved is trained on, and nothing else of a folder of sorted images is."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from scoring_world import run, write_images, write_photos

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.results.corrections import RECORD, SortedImage, find_corrections, read_sorted, record_sorted
from negprompt_cli.data.sets.imagesets import load_image_set
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import UsageError

ON = ["--device", "cpu", "--workers", 0, "--image-batch", 64]
FAST = ["--set", "positive.schedule.epochs=2", "--set", "negative.schedule.epochs=2", "--shots", 0]


@pytest.fixture(scope="module")
def world(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector fitted on photos/, and twelve other images that it sorted."""
    folder = tmp_path_factory.mktemp("world")
    photos = write_photos(folder / "photos", 14)
    write_images(folder / "new", 12, seed=40)
    model = ["--model", clip.identity.name]
    assert run("fit", photos, *model, *ON, *FAST, "--run", folder / "run").exit_code == 0
    # With this threshold about half of them are OOD.
    rows = run("score", folder / "new", "--run", folder / "run", *ON, "--format", "jsonl").stdout.splitlines()
    middle = sorted(json.loads(row)["score"] for row in rows)[6]
    to = ["--sort-into", folder / "sorted", "--threshold", middle]
    done = run("score", folder / "new", "--run", folder / "run", *ON, *to)
    assert done.exit_code == 0, done.output
    return folder


def move(path: Path, into: Path) -> Path:
    into.mkdir(parents=True, exist_ok=True)
    return path.rename(into / path.name)


def test_moved_images_are_told_from_those_that_stayed(world: Path, tmp_path: Path):
    folder = shutil.copytree(world / "sorted", tmp_path / "sorted", symlinks=True)
    found = find_corrections(folder)
    assert (found.corrected, found.moved_to_ood, found.untouched) == ({}, [], 12)
    first, second, *_ = sorted((folder / "ood").iterdir())
    accepted = sorted(folder.glob("id/*/*"))[0]
    moved = move(first, folder / "id/red_circle")
    # A copy with another name is the same image; so is one in place of a link.
    (folder / "id/green_square").mkdir(exist_ok=True)
    copy = Path(shutil.copy(second, folder / "id/green_square/renamed.png"))
    second.unlink()
    rejected = move(accepted, folder / "ood")
    (added,) = write_images(folder / "id/blue_triangle", 1, seed=70)
    added = added.rename(added.with_name("added.png"))
    found = find_corrections(folder)
    assert found.corrected == {"blue_triangle": [added], "green_square": [copy], "red_circle": [moved]}
    assert (found.moved_to_ood, found.untouched) == ([rejected], 9)
    assert found.detector is not None and found.detector[0] == world / "run/negative.safetensors"


def test_a_record_has_any_file_name_and_no_other_lines(tmp_path: Path):
    image = SortedImage("ood", "ab", os.fsdecode(b"caf\xe9.png"), threshold=0.5)
    record_sorted(tmp_path, [image])
    assert read_sorted(tmp_path) == [image]
    for line in ("[]", '{"folder": "ood"}', '{"folder": "ood", "sha256": "ab", "path": "", "more": 1}', "[" * 100_000):
        (tmp_path / RECORD).write_text(line)
        with pytest.raises(UsageError, match="line 1 is not a record of sorting"):
            read_sorted(tmp_path)


def test_corrected_images_and_no_others_are_trained_on(world: Path, clip: Clip, tmp_path: Path):
    folder = shutil.copytree(world / "sorted", tmp_path / "sorted", symlinks=True)
    photos = world / "photos"
    train = load_image_set(str(photos), role="train", data_root=world)
    held_out = load_image_set(str(photos), role="eval", data_root=world)
    ood = sorted((folder / "ood").iterdir())
    corrected = [move(path, folder / "id/red_circle") for path in ood[:3]]
    # A training image that a person says is of another class, and a held-out image.
    relabelled = shutil.copy(train.paths[0], folder / "id/red_circle/training.png")
    shutil.copy(held_out.paths[0], folder / "id/red_circle/held-out.png")
    assert train.classes[train.labels[0]].key == "blue_triangle"
    foreign = move(sorted(folder.glob("id/*/0*.png"))[0], folder / "ood")
    asked = ["fit", photos, "--model", clip.identity.name, *ON, *FAST, "--corrections", folder]
    done = run(*asked, "--run", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    (told,) = [d["facts"] for d in document["decisions"] if d["kind"] == "corrected"]
    assert (told["images"], told["replaced"], told["held_out"], told["moved_to_ood"]) == (4, 1, 1, 1)
    assert told["untouched"] == 12 - 3 - (foreign.name not in {path.name for path in corrected})
    assert document["training"]["images"] == 21 - 1 + 4
    # The same contexts as from the same images in a folder of their own.
    again = tmp_path / "again"
    for part, images in (("train", train), ("val", held_out)):
        for i, path in enumerate(images.paths):
            if part == "val" or i > 0:
                place = again / part / images.classes[images.labels[i]].key / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
    for i, path in enumerate([*corrected, Path(relabelled)]):
        shutil.copy(path, again / f"train/red_circle/z{i}.png")
    plain = run("fit", again, "--model", clip.identity.name, *ON, *FAST, "--run", tmp_path / "plain")
    assert plain.exit_code == 0, plain.output
    made, expected = (
        load_prompts(tmp_path / "run/negative.safetensors"),
        load_prompts(tmp_path / "plain/negative.safetensors"),
    )
    assert torch.allclose(made.positive, expected.positive, atol=1e-4)
    assert made.negative is not None and expected.negative is not None
    assert torch.allclose(made.negative, expected.negative, atol=1e-3)
    assert made.calibration is not None and expected.calibration is not None
    assert made.calibration.scores == pytest.approx(expected.calibration.scores, abs=1e-3)
    # Before and after are what scoring the held-out images says.
    found = document["corrections"]
    assert found["detector"] == str(world / "run/negative.safetensors")
    for name, artifact in (("before", world / "run"), ("after", tmp_path / "run")):
        rows = run("score", *held_out.paths, "--run", artifact, *ON, "--format", "jsonl").stdout.splitlines()
        judged = [json.loads(row) for row in rows]
        keys = [held_out.classes[label].key for label in held_out.labels]
        assert found[f"held_out_{name}"] == {
            "images": 21,
            "correct": sum(row["prediction"] == key for row, key in zip(judged, keys, strict=True)),
            "accepted": pytest.approx(sum(not row["is_ood"] for row in judged), abs=1),
        }
    assert found["corrected_before"]["images"] == found["corrected_after"]["images"] == found["images"] == 4


def test_a_folder_that_says_nothing_is_refused(world: Path, clip: Clip, tmp_path: Path):
    folder = shutil.copytree(world / "sorted", tmp_path / "sorted", symlinks=True)
    asked = ["fit", world / "photos", "--model", clip.identity.name, *ON, *FAST, "--run", tmp_path / "run"]
    write_images(folder / "id/cat", 1, seed=71)
    unknown = run(*asked, "--corrections", folder)
    assert unknown.exit_code == 2
    assert "cat" in unknown.stderr and "transfer --extend" in unknown.stderr
    (folder / RECORD).unlink()
    plain = run(*asked, "--corrections", folder)
    assert plain.exit_code == 2 and RECORD in plain.stderr
    (folder / RECORD).write_text('{"folder": 3}\n')
    damaged = run(*asked, "--corrections", folder)
    assert damaged.exit_code == 2 and "line 1" in damaged.stderr
    assert not (tmp_path / "run").exists()
