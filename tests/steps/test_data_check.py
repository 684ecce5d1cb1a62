"""Near-duplicates and doubtful labels of real files, by the features of the package's small model."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scoring_world import run

from negprompt_cli.engine.clip import Clip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red circles and green squares of many sizes and places, eight to train on and four held out of each."""
    folder = tmp_path_factory.mktemp("shapes")
    draws = np.random.default_rng(0)
    for name, colour in (("red_circle", "red"), ("green_square", "green")):
        for i in range(12):
            image = Image.new("RGB", (48, 48), tuple(draws.integers(150, 256, 3).tolist()))
            x, y, size = draws.integers(2, 18), draws.integers(2, 18), draws.integers(14, 28)
            draw = ImageDraw.Draw(image)
            box = (int(x), int(y), int(x + size), int(y + size))
            (draw.ellipse if colour == "red" else draw.rectangle)(box, fill=colour)
            place = folder / ("train" if i < 8 else "val") / name
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{i:02d}.png")
    return folder


def test_planted_faults_are_found_and_listed(shapes: Path, clip: Clip, tmp_path: Path):
    data = shutil.copytree(shapes, tmp_path / "data")
    asked = ["data", "check", data, "--model", clip.identity.name, "--device", "cpu", "--similarity", 0.98]
    asked += ["--near-duplicates", "--label-errors"]
    before = run(*asked, "--json")
    assert before.exit_code == 0, before.output
    known = {(pair["path"], pair["other"]) for pair in json.loads(before.stdout)["near_duplicates"]}
    assert json.loads(before.stdout)["label_errors"] == []
    # A mislabelled image, one that comes again in another format, a leak, an overlap, and a copy, which is no near one.
    wrong = (data / "train/red_circle/00.png").rename(data / "train/green_square/wrong.png")

    def again(source: str, place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(data / source).convert("RGB").save(place, quality=95)
        return place

    twin = again("train/red_circle/01.png", data / "train/red_circle/twin.jpg")
    leak = again("train/red_circle/02.png", data / "val/red_circle/leak.jpg")
    overlap = again("val/green_square/09.png", tmp_path / "ood/overlap.jpg")
    shutil.copy(data / "train/red_circle/03.png", data / "train/red_circle/copy.png")
    (data / "val/red_circle/broken.png").write_bytes(b"no image")
    done = run(*asked, "--ood", tmp_path / "ood", "--listing", tmp_path / "list.csv", "--json")
    assert done.exit_code == 1, done.output
    document = json.loads(done.stdout)
    found = [
        (p["kind"], p["path"], p["other"]) for p in document["near_duplicates"] if (p["path"], p["other"]) not in known
    ]
    assert {tuple(sorted(pair[1:])) for pair in found if pair[0] == "near-duplicate"} >= {
        tuple(sorted((str(data / "train/red_circle/01.png"), str(twin))))
    }
    assert ("near-leak", str(leak), str(data / "train/red_circle/02.png")) in found
    assert ("near-overlap", str(overlap), str(data / "val/green_square/09.png")) in found
    assert not any("copy.png" in path and "03.png" in other for _, path, other in found)
    (doubt,) = document["label_errors"]
    assert (doubt["path"], doubt["label"], doubt["suggested"]) == (str(wrong), "green_square", "red_circle")
    kinds = {finding["kind"]: finding for finding in document["findings"]}
    assert kinds["label"]["level"] == kinds["near-leak"]["level"] == "warning"
    assert {"duplicate", "broken"} <= set(kinds)
    rows = list(csv.DictReader((tmp_path / "list.csv").read_text().splitlines()))
    assert len(rows) == len(document["near_duplicates"]) + 1
    assert (rows[-1]["kind"], rows[-1]["path"], rows[-1]["suggested"]) == ("label", str(wrong), "red_circle")
    again_listed = run(*asked, "--listing", tmp_path / "list.csv")
    assert again_listed.exit_code == 2 and "list.csv exists" in again_listed.stderr
    plain = run("data", "check", data, "--json")
    assert json.loads(plain.stdout)["near_duplicates"] is None


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["--listing", "list.csv"], "--near-duplicates"),
        (["--near-duplicates", "--similarity", 1.5], "between 0 and 1"),
        (["--label-errors"], "no classes"),
    ],
)
def test_what_makes_no_sense_is_refused(
    shapes: Path, clip: Clip, tmp_path: Path, asked: list[object], named: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    flat = shutil.copytree(shapes / "val/red_circle", tmp_path / "flat")
    refused = run("data", "check", flat, "--model", clip.identity.name, "--device", "cpu", *asked)
    assert refused.exit_code == 2
    assert named in refused.stderr
