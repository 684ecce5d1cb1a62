"""Scoring: rows against the scores computed by hand, and every way of asking for them."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_world import (
    NAMES,
    Result,
    bench_of,
    calibrated,
    make_prompts,
    run,
    write_artifact,
    write_broken,
    write_images,
)

from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.data.results.rowfile import COLUMNS, KnownPaths, Row, part_of, row_file
from negprompt_cli.data.results.sorting import folder_name, sort_image
from negprompt_cli.data.sets.filekinds import LeftOut
from negprompt_cli.data.sets.pathlist import list_paths
from negprompt_cli.engine.clip import Clip
from negprompt_cli.errors import NegPromptError, UsageError


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "photos"
    write_images(folder / "b", 3, seed=1)
    write_images(folder / "a" / "deep", 3, seed=2)
    write_images(folder, 2, seed=3)
    return folder


@pytest.fixture(scope="module")
def expected(clip: Clip, images: Path) -> dict[str, tuple[str, float, float, str]]:
    """Class, probability, extended MCM and nearest negative of each image, straight from their formulas."""
    prompts = make_prompts(clip)
    encoder = clip.prompt_encoder(prompts.names, context=4, budget=2**28)
    with torch.no_grad():
        positives, negatives = encoder(prompts.positive)[0].double(), encoder(prompts.negative).double()
    found = {}
    for path in sorted(images.rglob("*.png")):
        feature = clip.encode_images(clip.preprocess(open_rgb(path))[None])[0].double()
        own = [float(p @ feature) for p in positives]
        other = {f"{NAMES[i]} #{j + 1}": float(negatives[j, i] @ feature) for j in range(2) for i in range(3)}
        best = int(np.argmax(own))
        share = np.exp(clip.logit_scale * own[best]) / sum(np.exp(clip.logit_scale * c) for c in own)
        everything = sum(np.exp(c) for c in own) + sum(np.exp(c) for c in other.values())
        found[str(path)] = NAMES[best], share, np.exp(own[best]) / everything, max(other, key=other.__getitem__)
    return found


@pytest.fixture(scope="module")
def threshold(expected: dict[str, tuple[str, float, float, str]]) -> float:
    """Between the third and the fourth lowest score."""
    scores = sorted(score for _, _, score, _ in expected.values())
    return (scores[2] + scores[3]) / 2


@pytest.fixture(scope="module")
def artifact(clip: Clip, threshold: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    return write_artifact(calibrated(make_prompts(clip), threshold), folder / "negative.safetensors")


@pytest.fixture
def score(artifact: Path) -> "Scoring":
    return Scoring(artifact)


class Scoring:
    def __init__(self, artifact: Path) -> None:
        self.artifact = artifact

    def __call__(self, *arguments: object, stdin: str | bytes | None = None) -> Result:
        return run("score", *arguments, "--prompts", self.artifact, "--device", "cpu", "--workers", 0, stdin=stdin)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_rows_say_what_the_formulas_say(
    score: Scoring, images: Path, expected: dict[str, tuple[str, float, float, str]], threshold: float
):
    result = score(images)
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert tuple(rows[0]) == COLUMNS
    # Files of a folder first, then its subfolders by name.
    assert [r["path"] for r in rows] == [
        str(images / name)
        for name in (
            "000.png",
            "001.png",
            *(f"a/deep/00{i}.png" for i in range(3)),
            *(f"b/00{i}.png" for i in range(3)),
        )
    ]
    for row in rows:
        name, probability, value, nearest = expected[row["path"]]
        assert row["prediction_name"] == name
        assert row["prediction"] == name.replace(" ", "_")
        assert float(row["probability"]) == pytest.approx(probability, rel=1e-4)
        assert float(row["score"]) == pytest.approx(value, rel=1e-5)
        assert row["is_ood"] == ("true" if value < threshold else "false")
        assert row["nearest_negative"] == nearest
        assert row["error"] == ""
    assert "3 images are OOD, 5 are ID" in result.stderr


def test_the_three_formats_hold_the_same(score: Scoring, images: Path, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for form in ("csv", "jsonl", "parquet"):
        result = score(images, "--out", tmp_path / f"rows.{form}", "-q")
        assert result.stdout.split() == [str(tmp_path / f"rows.{form}")]
        assert not result.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    for text, row in zip(rows_of((tmp_path / "rows.csv").read_text()), rows, strict=True):
        assert float(text["score"]) == row["score"]
        assert text["path"] == row["path"]
    assert not list(tmp_path.glob("*.part"))


def test_files_globs_and_lists_in_the_order_given(score: Scoring, images: Path):
    one = images / "b/002.png"
    listed = f"{images / 'a/deep/001.png'}\n\n{images / '001.png'}\n"
    result = score(one, "-", f"{images}/b/*0[01].png", "--format", "jsonl", stdin=listed)
    assert result.exit_code == 0, result.output
    paths = [json.loads(line)["path"] for line in result.stdout.splitlines()]
    names = ["b/002.png", "a/deep/001.png", "001.png", "b/000.png", "b/001.png"]
    assert paths == [str(images / name) for name in names]


def test_broken_images_are_rows_and_no_stop(score: Scoring, images: Path, tmp_path: Path):
    broken = write_broken(tmp_path / "broken")
    assert len(broken) == 20
    result = score(tmp_path / "broken", images / "000.png", "--image-batch", 3)
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert [r["path"] for r in rows] == [*map(str, broken), str(images / "000.png")]
    assert all(r["error"] and not r["prediction"] and not r["is_ood"] for r in rows[:-1])
    assert rows[-1]["prediction"]
    assert "20 of them broken" in result.stderr
    for stop in (("--on-error", "stop"), ("--set", "data.on_error=stop")):
        stopped = score(tmp_path / "broken", *stop)
        assert stopped.exit_code == 1
        assert "bmp-header.bmp" in stopped.stderr or "bomb.png" in stopped.stderr


def test_no_image_is_encoded_twice(score: Scoring, images: Path, tmp_path: Path):
    def scored(*more: object) -> tuple[list[dict[str, str]], int]:
        result = score(images, *more)
        told = re.search(r"features of (\d+) images were in the cache", result.stderr)
        return rows_of(result.stdout), int(told[1]) if told else 0

    first, known = scored("--no-cache")
    assert (scored()[1], known) == (0, 0)
    again, known = scored()
    assert known == 8
    for made, expected in zip(again, first, strict=True):
        assert made["path"] == expected["path"]
        assert float(made["score"]) == pytest.approx(float(expected["score"]), abs=1e-6)
    assert scored("--no-cache")[1] == 0
    # Other rules for pixels make other features.
    assert scored("--set", "model.pixels.alpha=white")[1] == 0
    assert scored("--set", "model.pixels.alpha=white")[1] == 8


def test_a_listed_file_that_is_not_there_is_a_row(score: Scoring, images: Path):
    rows = rows_of(score("-", stdin=f"nowhere.png\n{images / '000.png'}\n").stdout)
    assert "no such file" in rows[0]["error"]
    assert rows[1]["prediction"]


def test_appending_goes_on_where_it_stopped(score: Scoring, images: Path, tmp_path: Path):
    for form in ("csv", "jsonl"):
        whole, out = tmp_path / f"whole.{form}", tmp_path / f"rows.{form}"
        score(images, "--out", whole)
        lines = whole.read_bytes().splitlines(keepends=True)
        # As a crash leaves it: some whole rows, one cut short, no finished file.
        part_of(out).write_bytes(b"".join(lines[:4]) + lines[4][:17])
        refused = score(images, "--out", out)
        assert refused.exit_code == 2
        assert "--append" in refused.stderr
        resumed = score(images, "--out", out, "--append")
        assert resumed.exit_code == 0 and f"The last row of {out} was incomplete" in resumed.stderr.replace("\n", " ")
        done = out.read_bytes()
        # The rest was encoded in other batches, which some processors round differently.
        for made, expected in zip(done.splitlines(), whole.read_bytes().splitlines(), strict=True):
            assert re.sub(rb"-?[0-9.]+(e-[0-9]+)?", b"#", made) == re.sub(rb"-?[0-9.]+(e-[0-9]+)?", b"#", expected)
            numbers = [[float(n) for n in re.findall(rb"0\.[0-9]{4,}", line)] for line in (made, expected)]
            assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
        again = score(images, "--out", out, "--append")
        assert "8 others already had rows" in again.stderr
        assert out.read_bytes() == done


def test_appending_adds_new_images(score: Scoring, images: Path, tmp_path: Path):
    out = tmp_path / "rows.csv"
    score(images / "b", "--out", out)
    score(images, "--out", out, "--append")
    paths = [row["path"] for row in rows_of(out.read_text())]
    assert len(paths) == len(set(paths)) == 8
    assert paths[:3] == [str(images / f"b/00{i}.png") for i in range(3)]


def test_a_failure_leaves_the_old_file(tmp_path: Path):
    out = tmp_path / "rows.csv"
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt), row_file(out, "csv", append=False) as file:
        file.sink.write([Row("a.png", error="x")])
        raise KeyboardInterrupt
    assert out.read_text() == "old"
    assert part_of(out).read_text().splitlines()[1].startswith("a.png")


def test_a_foreign_file_is_not_appended_to(score: Scoring, images: Path, tmp_path: Path):
    (tmp_path / "rows.csv").write_text("name,age\nme,7\n")
    result = score(images, "--out", tmp_path / "rows.csv", "--append")
    assert result.exit_code == 2
    assert (tmp_path / "rows.csv").read_text() == "name,age\nme,7\n"


def test_ood_fails_on_request(score: Scoring, images: Path):
    assert score(images).exit_code == 0
    failed = score(images, "--fail-on-ood")
    assert failed.exit_code == 3
    assert len(rows_of(failed.stdout)) == 8
    assert score(images, "--fail-on-ood", "--threshold", "-1").exit_code == 0


GATE = ("--fail-on-ood", "--threshold", "-1")
"""A gate that calls no image OOD."""


def test_the_gate_does_not_pass_over_what_it_cannot_judge(score: Scoring, images: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "zero.jpg").touch()
    (broken / "page.jpg").write_text("<!doctype html><title>404</title>")
    failed = score(broken, *GATE)
    assert failed.exit_code == 4
    assert [bool(row["error"]) for row in rows_of(failed.stdout)] == [True, True]
    # Among others, missing, and by the suffix of a kind that cannot be read here.
    assert score(images, broken, *GATE).exit_code == 4
    assert score("-", *GATE, stdin=f"{tmp_path / 'nowhere.png'}\n{images / '000.png'}\n").exit_code == 4
    shutil.copytree(images, tmp_path / "some")
    (tmp_path / "some" / "raw.cr2").write_bytes(b"II*\0")
    left_out = score(tmp_path / "some", *GATE)
    assert left_out.exit_code == 4 and "1 of them are in formats that cannot be read" in left_out.stderr
    # An OOD image says more; without a gate the rows are all that is asked for.
    assert score(images, broken, "--fail-on-ood").exit_code == 3
    assert score(broken).exit_code == 0
    document = json.loads(score(images, broken, *GATE, "--out", tmp_path / "rows.csv", "--json").stdout)
    assert document["not_judged"] == 2
    (told,) = [d["facts"] for d in document["decisions"] if d["kind"] == "images-not-judged"]
    assert sorted(Path(p).name for p in told["first"]) == ["page.jpg", "zero.jpg"]


def test_the_gate_and_the_summary_speak_of_all_rows_when_appending(score: Scoring, images: Path, tmp_path: Path):
    (tmp_path / "zero.jpg").touch()
    for form in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"rows.{form}"
        assert score(tmp_path / "zero.jpg", *GATE, "--out", out).exit_code == 4
        again = score(images, *GATE, "--out", out, "--append")
        assert again.exit_code == 4
        assert "now has rows of 9 images, 0 of them OOD, 1 of them broken" in again.stderr
        document = json.loads(score(images, *GATE, "--out", out, "--append", "--json").stdout)
        assert document["total"] == {"images": 9, "broken": 1, "ood": 0}
        assert (document["images"], document["known"]) == (0, 8)


def test_what_would_make_a_gate_pass_by_accident(score: Scoring, images: Path):
    for value in ("nan", "inf", "-inf"):
        refused = score(images, "--fail-on-ood", "--threshold", value)
        assert refused.exit_code == 2 and "finite" in refused.stderr
    nothing = score("-", *GATE, stdin="")
    assert nothing.exit_code == 0 and "There are no images" in nothing.stderr


def test_sorted_images_are_not_scored_again(score: Scoring, images: Path, tmp_path: Path):
    photos = shutil.copytree(images, tmp_path / "photos")
    inside = score(photos, "--sort-into", photos / "sorted")
    assert inside.exit_code == 2 and "scored again" in inside.stderr
    assert not (photos / "sorted").exists()
    assert score(*photos.glob("*.png"), "--sort-into", photos / "sorted").exit_code == 0


def test_rows_of_another_run_are_not_added_to(
    score: Scoring, clip: Clip, threshold: float, images: Path, tmp_path: Path
):
    out = tmp_path / "rows.csv"
    score(images / "b", "--out", out)
    done = out.read_bytes()
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    zero_shot = ("--classes", names, "--model", clip.identity.name, "--device", "cpu")
    for other in (
        score(images, "--out", out, "--append", "--threshold", "-1"),
        run("score", images, *zero_shot, "--out", out, "--append"),
    ):
        assert other.exit_code == 2 and "has rows" in other.stderr and "--out" in other.stderr
    # Prompts with the same classes and threshold that were trained again.
    retrained = calibrated(make_prompts(clip), threshold)
    assert retrained.calibration is not None
    scores = tuple(one + 0.0001 * i * i for i, one in enumerate(retrained.calibration.scores))
    retrained = replace(retrained, calibration=retrained.calibration.model_copy(update={"scores": scores}))
    again = Scoring(write_artifact(retrained, tmp_path / "again.safetensors"))(images, "--out", out, "--append")
    assert again.exit_code == 2 and "has rows of other prompts" in again.stderr
    assert out.read_bytes() == done
    assert score(images, "--out", out, "--append").exit_code == 0


def test_sorting_links_and_copies(score: Scoring, images: Path, tmp_path: Path):
    def sorted_files(into: Path) -> dict[str, bytes]:
        return {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*.png")}

    rows = rows_of(score(images, "--sort-into", tmp_path / "links").stdout)
    links = sorted_files(tmp_path / "links")
    assert len(links) == 8
    assert all(p.is_symlink() for p in (tmp_path / "links").rglob("*.png"))
    for row in rows:
        where = "ood" if row["is_ood"] == "true" else f"id/{row['prediction']}"
        assert Path(row["path"]).read_bytes() in [data for name, data in links.items() if name.startswith(where + "/")]
    # Images of two runs are not mixed, and an interrupted run goes on in its own folder.
    again = score(images, "--sort-into", tmp_path / "links")
    assert again.exit_code == 2 and "images of two runs" in again.stderr
    assert sorted_files(tmp_path / "links") == links
    goes_on = score(images, "--sort-into", tmp_path / "links", "--out", tmp_path / "rows.csv", "--append")
    assert goes_on.exit_code == 0, goes_on.output
    assert sorted_files(tmp_path / "links") == links
    # Another threshold would put images where a user may have moved them.
    other = score(
        images, "--sort-into", tmp_path / "links", "--append", "--threshold", 0.3, "--out", tmp_path / "b.csv"
    )
    assert other.exit_code == 2 and "another detector or threshold" in other.stderr
    assert sorted_files(tmp_path / "links") == links
    score(images, "--sort-into", tmp_path / "copies", "--copy")
    assert sorted_files(tmp_path / "copies") == links
    assert not any(p.is_symlink() for p in (tmp_path / "copies").rglob("*.png"))


@given(st.text(max_size=30))
@settings(max_examples=200)
def test_a_class_name_never_leaves_its_folder(key: str):
    name = folder_name(key)
    assert name not in ("", ".", "..")
    assert not set("/\\\0") & set(name)


def test_sorting_where_nothing_can_be_written_says_so(images: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NegPromptError, match="Choose another folder"):
        sort_image(images / "000.png", tmp_path / "file", prediction="a", is_ood=False, copy=False)


def test_class_names_alone_will_do(clip: Clip, images: Path, tmp_path: Path):
    (tmp_path / "classes.txt").write_text("# shapes\n" + "\n".join(NAMES) + "\n")
    common = ("--classes", tmp_path / "classes.txt", "--model", clip.identity.name, "--device", "cpu", "--workers", 0)
    result = run("score", images, *common)
    assert result.exit_code == 0, result.output
    zero_shot = clip.encode_template(list(NAMES), template="a photo of a {}.", budget=2**28)
    for row in rows_of(result.stdout):
        cosines = clip.encode_images(clip.preprocess(open_rgb(Path(row["path"])))[None]) @ zero_shot.T
        assert row["prediction_name"] == NAMES[int(cosines.argmax())]
        assert float(row["score"]) == pytest.approx(float(torch.softmax(cosines, dim=1).max()), abs=1e-5)
        assert row["is_ood"] == row["nearest_negative"] == ""
    assert "There is no threshold" in result.stderr
    highest = max(float(row["score"]) for row in rows_of(result.stdout))
    judged = rows_of(run("score", images, *common, "--threshold", highest).stdout)
    assert [row["is_ood"] for row in judged].count("false") == 1
    for row in rows_of(run("score", images, *common, "--score", "max-logit").stdout):
        cosines = clip.encode_images(clip.preprocess(open_rgb(Path(row["path"])))[None]) @ zero_shot.T
        assert float(row["score"]) == pytest.approx(float(cosines.max()), abs=1e-5)


def test_another_score_has_no_threshold_of_its_own(score: Scoring, images: Path):
    result = score(images, "--score", "max-logit")
    assert {row["is_ood"] for row in rows_of(result.stdout)} == {""}
    refused = score(images, "--score", "max-logit", "--fail-on-ood")
    assert refused.exit_code == 2
    assert "calibrated for negprompt" in refused.stderr


@pytest.mark.parametrize("limit", [("--limit", 5), ("--set", "data.limit=5")])
def test_limit_and_summary_document(score: Scoring, images: Path, tmp_path: Path, limit: tuple[object, ...]):
    result = score(images, *limit, "--out", tmp_path / "rows.csv", "--json")
    document = json.loads(result.stdout)
    assert document["schema"] == "negprompt/score/1"
    assert document["limited"] is True
    assert document["images"] == 5
    assert document["ood"] + sum(document["classes"].values()) == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jpg"], "nowhere.jpg: no such file"),
        (["nothing/*.png"], "no files match"),
        (["{images}", "--score", "knn"], "needs more than prompts"),
        (["{images}", "--score", "negpromt"], "negprompt"),
        (["{images}", "--append"], "--out"),
        (["{images}", "--json"], "--out"),
        (["{images}", "--format", "parquet"], "--out"),
        (["{images}", "--out", "rows.xls"], ".csv, .jsonl or .parquet"),
        (["{images}", "--out", "{images}/000.png/rows.csv"], "000.png is a file, not a folder"),
        (["{images}", "--copy"], "--sort-into"),
        (["{images}", "--classes", "classes.txt"], "not both"),
        (["-", "-"], "only once"),
        (["{images}", "--fdr", "0.1", "--threshold", "1"], "remove it or --threshold"),
        (["{images}", "--fdr", "0"], "--fdr 0 is not between 0 and 1"),
        (["{images}", "--batch-verdict", "--level", "5"], "--level 5 is not between 0 and 1"),
        (["{images}", "--level", "0.01"], "--batch-verdict"),
    ],
)
def test_what_cannot_be_done_is_refused(score: Scoring, images: Path, arguments: list[str], says: str):
    result = score(*(a.format(images=images) for a in arguments), stdin="")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not result.stdout


def test_a_missing_artifact_names_the_steps(images: Path, tmp_path: Path):
    result = run("score", images, "--run", tmp_path)
    assert result.exit_code == 2
    assert "negprompt train-positive" in result.stderr


def test_a_named_artifact_that_is_missing_is_about_that_file(artifact: Path, images: Path, tmp_path: Path):
    near = run("score", images, "--prompts", artifact.with_name("negatve.safetensors"))
    assert near.exit_code == 2
    assert f"Did you mean {artifact}?" in near.stderr and "train-positive" not in near.stderr
    folder = run("evaluate", "--data", images, "--ood", images, "--prompts", artifact.parent)
    assert folder.exit_code == 2 and f"is a folder, not an artifact. Did you mean {artifact}?" in folder.stderr
    (tmp_path / "empty").mkdir()
    for command in (("calibrate",), ("transfer", "--classes", "-"), ("export", "--format", "onnx")):
        typed = run(*command, "--prompts", tmp_path / "empty" / "typo", stdin="cat\n")
        assert typed.exit_code == 2 and "has no artifact" in typed.stderr and "imagenet" not in typed.stderr
    nowhere = run("train-negative", "--data", images, "--positive", tmp_path / "no" / "p.safetensors")
    assert nowhere.exit_code == 2 and "does not exist" in nowhere.stderr and "train-positive" not in nowhere.stderr


def test_a_reader_that_leaves_ends_it_cleanly(artifact: Path, images: Path, tmp_path: Path):
    command = [sys.executable, "-m", "negprompt_cli", "score", "-", "--prompts", str(artifact), "--device", "cpu"]
    command += ["--workers", "0", "--image-batch", "1"]
    (tmp_path / "list.txt").write_text("".join(f"{images / '000.png'}\n" for _ in range(3000)))
    with (
        (tmp_path / "list.txt").open("rb") as listed,
        subprocess.Popen(
            command, stdin=listed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
        ) as process,
    ):
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith(b"path,")
        process.stdout.close()
        complaints = process.stderr.read().decode()
        assert process.wait(60) == 0
    assert "Traceback" not in complaints
    assert "BrokenPipe" not in complaints


def test_paths_are_listed_as_they_are_asked_for(tmp_path: Path):
    def endless():
        while True:
            yield "photo.png\n"

    taken = list_paths(["-"], endless(), LeftOut())
    assert [next(taken) for _ in range(3)] == [Path("photo.png")] * 3


def test_lists_of_images_and_of_classes_are_read_and_told(score: Scoring, images: Path, clip: Clip, tmp_path: Path):
    listed = tmp_path / "list.csv"
    listed.write_text(f"image,width\n{images / '000.png'},8\n{images / 'a' / 'deep' / '001.png'},8\n")
    result = score(listed)
    assert result.exit_code == 0, result.output
    assert [row["path"] for row in rows_of(result.stdout)] == [
        str(images / "000.png"),
        str(images / "a/deep/001.png"),
    ]
    assert "read as table with the columns image, width" in result.stderr
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({str(i): name for i, name in enumerate(NAMES)}))
    named = run(
        *("score", listed, "--classes", classes, "--model", clip.identity.name, "--device", "cpu", "--workers", 0),
        *("--out", tmp_path / "rows.csv", "--json"),
    )
    assert named.exit_code == 0, named.output
    decisions = {d["kind"]: d["facts"] for d in json.loads(named.stdout)["decisions"]}
    assert decisions["class-names-form"]["form"] == "JSON index"
    assert decisions["class-names-form"]["classes"] == len(NAMES)
    assert decisions["list-form"]["file"] == str(listed)
    assert {row["prediction_name"] for row in rows_of((tmp_path / "rows.csv").read_text())} <= set(NAMES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["", "--classes", "n.txt"], "empty path"), (["list.csv", "--classes", "n.json"], "n.json")],
)
def test_what_is_no_list_is_a_usage_error(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.txt").write_text("cat\n")
    (tmp_path / "n.json").write_text('{"a": "b"}')
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("path\na.png\n")
    result = run("score", *arguments, "--device", "cpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr and len(result.stderr.strip().splitlines()) <= 2, result.stderr


def test_a_link_to_a_folder_above_ends(tmp_path: Path):
    (path,) = write_images(tmp_path / "photos", 1)
    (tmp_path / "photos/again").symlink_to(tmp_path / "photos")
    assert list(list_paths([str(tmp_path / "photos")], [], LeftOut())) == [path]


@given(st.lists(st.text(max_size=12)), st.text(max_size=12))
@settings(max_examples=100)
def test_known_paths_are_the_ones_given_as_often_as_they_were(paths: list[str], other: str):
    known = KnownPaths(paths)
    assert len(known) == len(paths)
    assert all(known.take(path) for path in paths)
    assert len(known) == 0
    assert not any(known.take(path) for path in (*paths, other))
    assert KnownPaths(paths).take(other) == (other in paths)


AWKWARD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@given(st.lists(AWKWARD, min_size=1, max_size=6, unique=True), st.sampled_from(["csv", "jsonl"]), st.data())
@settings(max_examples=80)
def test_any_file_name_survives_a_crash_at_any_byte(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], form: str, data: st.DataObject
):
    out = tmp_path_factory.mktemp("rows") / f"rows.{form}"
    with row_file(out, form, append=False) as file:
        file.sink.write([Row(name, error="broken") for name in names])
    whole = out.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    out.unlink()
    part_of(out).write_bytes(whole[:cut])
    with row_file(out, form, append=True) as file:
        file.sink.write([Row(name, error="broken") for name in names if not file.known.take(name)])
    assert out.read_bytes() == whole


def test_a_carriage_return_in_a_name_is_no_line_end(tmp_path: Path):
    out = tmp_path / "rows.csv"
    names = ["a\rb.jpg", 'c"\r".jpg', "d.jpg"]
    with row_file(out, "csv", append=False) as file:
        file.sink.write([Row(name, error="broken") for name in names])
    whole = out.read_bytes()
    with row_file(out, "csv", append=True) as file:
        assert all(file.known.take(name) for name in names)
    assert out.read_bytes() == whole


def test_sorting_needs_a_threshold(clip: Clip, images: Path, tmp_path: Path):
    path = write_artifact(make_prompts(clip), tmp_path / "plain.safetensors")
    result = run("score", images, "--prompts", path, "--device", "cpu", "--sort-into", tmp_path / "sorted")
    assert result.exit_code == 2
    assert "negprompt calibrate" in result.stderr
    assert not (tmp_path / "sorted").exists()


def test_the_scorer_needs_a_bank_for_its_score(clip: Clip):
    from negprompt_cli.steps.shared.scorer import make_scorer

    with pytest.raises(UsageError, match="needs negative prompts"):
        make_scorer(bench_of(clip), make_prompts(clip, negatives=0), score="negprompt")
