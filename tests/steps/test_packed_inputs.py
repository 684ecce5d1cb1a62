"""The whole way from shards to sorted images: fit, score and evaluate on tar files as on the folders they were made of."""

import csv
import json
from pathlib import Path

import pytest
from packed_world import write_tar
from scoring_world import NAMES, run, write_broken, write_photos

from negprompt_cli.engine.clip import Clip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 10)


def test_shards_are_fitted_and_scored_as_the_folder_they_hold(clip: Clip, photos: Path, tmp_path: Path):
    classes = sorted(folder.name for folder in photos.iterdir())
    for shard in range(2):
        members = [
            (f"{name}/{path.stem}.{suffix}", path.read_bytes() if suffix == "png" else f"{label}".encode())
            for label, name in enumerate(classes)
            for path in sorted((photos / name).iterdir())[shard::2]
            for suffix in ("png", "cls")
        ]
        write_tar(tmp_path / "shards" / f"{shard:03d}.tar", members)
    (tmp_path / "shards" / "classnames.txt").write_text("".join(f"{name}\n" for name in sorted(NAMES)))
    common = ["--model", clip.identity.name, "--device", "cpu", "--workers", 0, "--acceptance", 0.8]
    fast = ["--set", "positive.schedule.epochs=2", "--set", "negative.schedule.epochs=2"]
    pattern = tmp_path / "shards" / "{000..001}.tar"
    done = run("fit", pattern, *common, *fast, "--run", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["classes"] == sorted(NAMES)
    assert document["held_out"]["images"] == 15
    prompts = ["--prompts", tmp_path / "run" / "negative.safetensors", "--device", "cpu", "--workers", 0]

    def scored(*paths: object) -> dict[str, tuple[str, float]]:
        result = run("score", *paths, *prompts, "--no-cache", "--image-batch", 1)
        assert result.exit_code == 0, result.output
        rows = csv.DictReader(result.stdout.splitlines())
        return {"/".join(Path(r["path"]).parts[-2:]): (r["prediction"], float(r["score"])) for r in rows}

    assert scored(pattern) == scored(photos)
    assert run("score", tmp_path / "shards", *prompts).exit_code == 0
    assert "features of 30 images were in the cache" in run("score", pattern, *prompts).stderr
    # Sorted, they are files again, with the very bytes.
    assert run("score", pattern, *prompts, "--sort-into", tmp_path / "sorted", "-q").exit_code == 0
    made = [path for path in (tmp_path / "sorted").rglob("*.png") if not path.is_symlink()]
    assert sorted(path.read_bytes() for path in made) == sorted(path.read_bytes() for path in photos.rglob("*.png"))


def test_broken_members_are_rows_and_keep_a_gate_shut(clip: Clip, photos: Path, tmp_path: Path):
    broken = [(path.name, path.read_bytes()) for path in write_broken(tmp_path / "broken") if path.is_file()]
    good = (photos / NAMES[0].replace(" ", "_") / "000.png").read_bytes()
    shard = write_tar(tmp_path / "mixed.tar", [*broken, ("good.png", good)])
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    common = ["--classes", tmp_path / "names.txt", "--model", clip.identity.name, "--device", "cpu", "--workers", 0]
    result = run("score", shard, *common, "--threshold", "-1", "--fail-on-ood")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert result.exit_code == 4
    assert [row["path"] for row in rows] == [f"{shard}/{name}" for name, _ in [*broken, ("good.png", good)]]
    assert [bool(row["error"]) for row in rows] == [True] * len(broken) + [False]
    # A shard that is cut short stops the command, whatever rows it has made by then.
    shard.write_bytes(shard.read_bytes()[:-10240])
    cut = run("score", shard, *common, "--out", tmp_path / "rows.csv")
    assert cut.exit_code == 2 and "may be incomplete" in cut.stderr and not (tmp_path / "rows.csv").exists()
