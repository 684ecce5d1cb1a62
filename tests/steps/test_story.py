"""The engineer's whole way on real images: fit, look, correct, fit again, add a class, judge deliveries, deploy."""

import json
from pathlib import Path
from typing import Any

import pytest
from scoring_world import run
from typer.testing import Result

from negprompt_cli.data.results.artifacts import load_prompts
from negprompt_cli.data.results.corrections import RECORD

TRAIN, HELD_OUT, NEW, CLEAN = 3, 5, 2, 2
"""Images of each class: to learn from, to hold out, to score, and of a delivery without OOD images."""


def links(images: list[Path], into: Path) -> Path:
    """Links to image files, in a folder of their own."""
    into.mkdir(parents=True)
    for image in images:
        (into / f"{image.parent.name}-{image.name}").symlink_to(image)
    return into


@pytest.mark.slow
def test_from_images_to_a_detector_that_is_kept(
    lite_clip_folder: Path, real_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    nette, textures = real_images / "imagenette", sorted((real_images / "textures").rglob("*.jpg"))
    keys = sorted(path.name for path in (nette / "val").iterdir())
    mixed, clean = [], []
    for key in keys:
        train, val = (sorted((nette / part / key).iterdir()) for part in ("train", "val"))
        links(train[:TRAIN], Path("photos/train") / key)
        links(val[:HELD_OUT], Path("photos/val") / key)
        mixed += val[HELD_OUT : HELD_OUT + NEW]
        clean += val[HELD_OUT + NEW : HELD_OUT + NEW + CLEAN]
    banana = [*sorted((real_images / "tiny-imagenet/train/n07753592").iterdir())[:12]]
    links([*mixed, *textures[:10]], Path("mixed"))
    links([*clean, *banana[9:]], Path("clean"))
    links([*clean[:10], *textures[10:30]], Path("shifted"))
    links(banana[:9], Path("banana"))

    def done(*arguments: object, code: int = 0) -> Result:
        workers = [] if arguments[0] == "export" else ["--workers", 0]
        result = run(*arguments, "--device", "cpu", *workers)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    def told(*arguments: object, code: int = 0) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(done(*arguments, "--json", code=code).stdout)
        return document

    # Fit on ten classes.
    model = ["--model", f"local-dir:{lite_clip_folder}"]
    model += [f"--set={stage}.schedule.epochs=10" for stage in ("positive", "negative")]
    fitted = told("fit", "photos", *model, "--run", "runs/photos", "--acceptance", 0.9)
    assert len(fitted["classes"]) == 10
    assert (fitted["training"]["images"], fitted["held_out"]["images"]) == (10 * TRAIN, 10 * HELD_OUT)
    assert fitted["held_out"]["accuracy"] > 0.8
    assert Path(fitted["report"]).is_file()

    # Score a mixed folder, with a page to look at; half of it does not belong, and a strict threshold rejects more.
    first = told("score", "mixed", "--run", "runs/photos", "--out", "rows.jsonl", "--report", "page.html")
    assert (first["images"], first["broken"]) == (30, 0)
    assert "<html" in Path("page.html").read_text()[:2000].lower()
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert first["ood"] == sum(row["is_ood"] for row in rows) >= 5
    strict = max(row["score"] for row in rows) + 1
    into = ["--sort-into", "sorted", "--threshold", strict, "--fail-on-ood"]
    done("score", "mixed", "--run", "runs/photos", *into, "--out", "strict.csv", code=3)
    assert len(list(Path("sorted/ood").iterdir())) == 30
    assert len(Path("sorted", RECORD).read_text().splitlines()) == 30

    # Correct ten images: they belong to their classes. Then fit again.
    for image in [path for path in sorted(Path("sorted/ood").iterdir()) if path.name[:9] in keys][::NEW]:
        place = Path("sorted/id") / image.name[:9]
        place.mkdir(parents=True)
        image.rename(place / image.name)
    again = ["fit", "photos", *model, "--run", "runs/corrected", "--acceptance", 0.9, "--corrections", "sorted"]
    corrected = told(*again)
    assert corrected["training"]["images"] == 10 * TRAIN + 10
    found = corrected["corrections"]
    assert found["images"] == 10
    assert found["held_out_before"]["images"] == found["held_out_after"]["images"] == 10 * HELD_OUT
    assert found["held_out_after"]["accepted"] >= 0.9 * 10 * HELD_OUT
    assert found["corrected_after"]["correct"] >= found["corrected_before"]["correct"]

    # Add a class.
    added = told("transfer", "--extend", "--images", "banana", "--prompts", "runs/corrected/negative.safetensors")
    detector = Path(added["path"])
    assert detector == Path("runs/corrected/transfer-banana.safetensors")
    assert added["new"] == ["banana"] and len(added["classes"]) == 11
    change = added["extension"]
    assert (change["old_after"]["images"], change["new_after"]["images"]) == (10 * HELD_OUT, 4)
    assert change["new_after"]["correct"] >= 2
    assert load_prompts(detector).calibration is not None

    # Is a delivery like the calibration images? A few rejected images do not stop it, a shift does.
    asked = ["--prompts", detector, "--fail-on-shift", "--batch-verdict"]
    kept = told("score", "clean", *asked, "--out", "clean.csv")["delivery"]
    assert (kept["images"], kept["shifted"]) == (10 * CLEAN + 3, False)
    shifted = told("score", "shifted", *asked, "--out", "shifted.csv", code=5)["delivery"]
    assert (shifted["images"], shifted["shifted"]) == (30, True)

    # Deploy it without torch: the same rows.
    pytest.importorskip("onnxscript", reason="exporting needs the extra export")
    done("export", "--prompts", detector, "--out", "detector.onnx")
    for prompts, out in ((detector, "torch.jsonl"), ("detector.onnx", "onnx.jsonl")):
        summary = told("score", "mixed", "--prompts", prompts, "--out", out)
        assert (summary["images"], summary["broken"]) == (30, 0)
    pairs = zip(*(Path(name).read_text().splitlines() for name in ("torch.jsonl", "onnx.jsonl")), strict=True)
    for one, other in ((json.loads(a), json.loads(b)) for a, b in pairs):
        assert (one["path"], one["prediction"]) == (other["path"], other["prediction"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
