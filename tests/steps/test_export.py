"""Exported files against PyTorch and against `negprompt score`, and the example that needs none of this package."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from scoring_world import NAMES, bench_of, calibrated, make_prompts, run, write_artifact, write_images

import negprompt_cli
from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.judgement import prompt_scores
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.errors import NegPromptError
from negprompt_cli.steps import export as steps
from negprompt_cli.steps.export import check_export, detector_module, load_onnx, load_pt2, run_export
from negprompt_cli.steps.shared.scorer import Scorer, make_scorer

EXAMPLE = Path(negprompt_cli.__file__).parent / "examples/score_onnx.py"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = write_images(folder, 6)
    for path, size in zip(paths, [(40, 30), (30, 41), (33, 97), (101, 64), (64, 64), (500, 375)], strict=True):
        Image.open(path).resize(size, Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture(scope="module")
def artifact(clip: Clip, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated between the photos' scores."""
    prompts = make_prompts(clip)
    features = torch.stack([clip.preprocess(open_rgb(p)) for p in photos])
    scores = np.sort(make_scorer(bench_of(clip), prompts).judge(clip.encode_images(features)).scores)
    folder = tmp_path_factory.mktemp("artifact")
    return write_artifact(calibrated(prompts, float(scores[2:4].mean())), folder / "negative.safetensors")


@pytest.fixture(scope="module")
def onnx_file(artifact: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="ONNX export needs the extra 'export'")
    pytest.importorskip("onnxscript", reason="ONNX export needs the extra 'export'")
    done = run("export", "--prompts", artifact, "--device", "cpu", "-q")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(artifact.with_suffix(".onnx"))]
    return artifact.with_suffix(".onnx")


def scored(artifact: Path, photos: list[Path]) -> list[dict[str, str]]:
    result = run("score", *photos, "--prompts", artifact, "--device", "cpu", "--workers", 0)
    return list(csv.DictReader(result.stdout.splitlines()))


def test_the_example_says_what_score_says(onnx_file: Path, artifact: Path, photos: list[Path]):
    done = subprocess.run([sys.executable, EXAMPLE, onnx_file, *photos], capture_output=True, text=True, check=True)
    for line, row in zip(done.stdout.splitlines(), scored(artifact, photos), strict=True):
        path, name, probability, score, verdict = line.split("\t")
        assert (path, name) == (row["path"], row["prediction_name"])
        assert float(probability) == pytest.approx(float(row["probability"]), abs=2e-4)
        assert float(score) == pytest.approx(float(row["score"]), rel=1e-4)
        assert verdict == ("OOD" if row["is_ood"] == "true" else "ID")
    assert {row["is_ood"] for row in scored(artifact, photos)} == {"true", "false"}


def test_the_example_says_what_score_says_of_odd_images_or_refuses_them(
    onnx_file: Path, artifact: Path, tmp_path: Path
):
    folder = tmp_path / "odd"
    noise = np.random.default_rng(5).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    colour = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = colour.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(colour.size))
    palette = colour.convert("P", palette=Image.Palette.ADAPTIVE, colors=30)
    folder.mkdir()
    odd: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey.png": (colour.convert("L"), {}),
        "bit.png": (colour.convert("1"), {}),
        "palette.png": (palette, {"transparency": bytes(range(0, 240, 8))}),
        "alpha.png": (clear, {}),
        "grey-alpha.png": (clear.convert("LA"), {}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "turned.jpg": (colour, {"exif": exif}),
        "moving.gif": (colour, {"save_all": True, "append_images": [Image.fromarray(255 - noise)]}),
        "web.webp": (clear, {}),
        "16.png": (Image.fromarray(noise[..., 0].astype(np.uint16) * 257), {}),
        "12.png": (Image.fromarray(noise[..., 0].astype(np.uint16) * 16), {}),
        "float.tif": (Image.fromarray(noise[..., 0].astype(np.float32) / 255), {}),
        "integers.tif": (Image.fromarray(noise[..., 0].astype(np.int32) * 257), {}),
        "lab.tif": (colour.convert("LAB"), {}),
    }
    for name, (image, extra) in odd.items():
        image.save(folder / name, **extra)
    paths = sorted(folder.iterdir())
    done = subprocess.run([sys.executable, EXAMPLE, onnx_file, *paths], capture_output=True, text=True)
    theirs = {line.split("\t")[0]: float(line.split("\t")[3]) for line in done.stdout.splitlines()}
    ours = {row["path"]: float(row["score"]) for row in scored(artifact, paths) if row["score"]}
    assert done.returncode == 1
    assert {Path(path).name for path in theirs} == {n for n in odd if not n[0].isdigit() and not n.endswith(".tif")}
    assert {Path(path).name for path in ours} == set(odd) - {"12.png"}
    for path, score in theirs.items():
        assert score == pytest.approx(ours[path], abs=1e-3), path
    for name in ("16.png", "12.png", "float.tif", "integers.tif", "lab.tif"):
        assert name in done.stderr


def test_the_example_refuses_a_model_that_reads_images_otherwise(clip: Clip, onnx_file: Path, tmp_path: Path):
    import onnx

    model = onnx.load(onnx_file)
    [entry] = [entry for entry in model.metadata_props if entry.key == "negprompt"]
    about = json.loads(entry.value)
    assert about["preprocessing"]["pixels"] == {"values": "auto", "alpha": "drop", "orientation": "ignore"}
    about["preprocessing"]["pixels"]["alpha"] = "white"
    entry.value = json.dumps(about)
    onnx.save(model, tmp_path / "white.onnx")
    done = subprocess.run([sys.executable, EXAMPLE, tmp_path / "white.onnx", "a.png"], capture_output=True, text=True)
    assert done.returncode == 1 and "use `negprompt score`" in done.stderr


def test_the_example_stands_alone_and_is_short():
    text = EXAMPLE.read_text().split('"""', 2)[2]
    code = [line for line in text.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(code) <= 35
    assert "negprompt_cli" not in EXAMPLE.read_text()


def test_any_batch_size_and_metadata(onnx_file: Path, clip: Clip):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["negprompt"])
    assert [c["name"] for c in about["classes"]] == ["red circle", "green square", "blue triangle"]
    assert about["model"]["weights_sha256"] == clip.identity.weights_sha256
    assert [o.name for o in session.get_outputs()] == ["probabilities", "score", "is_ood"]
    height, width = about["preprocessing"]["size"]
    pixels = np.random.default_rng(0).standard_normal((7, 3, height, width)).astype(np.float32)
    whole = session.run(None, {"pixels": pixels})
    assert [output.shape for output in whole] == [(7, 3), (7,), (7,)]
    assert whole[2].dtype == np.bool_
    np.testing.assert_allclose(whole[0].sum(axis=1), 1, atol=1e-5)
    single = [session.run(None, {"pixels": pixels[i : i + 1]}) for i in range(7)]
    np.testing.assert_allclose(np.concatenate([s[0] for s in single]), whole[0], atol=1e-5)
    assert not [p for p in onnx_file.parent.iterdir() if "onnx" in p.name and p != onnx_file]


def test_torch_export_agrees(artifact: Path, photos: list[Path], clip: Clip):
    done = run("export", "--prompts", artifact, "--format", "pt2", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["difference"] <= 1e-4
    path = artifact.with_suffix(".pt2")
    extra = {"negprompt": ""}
    program: Any = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["negprompt"])["score"] == "negprompt"
    pixels = torch.stack([clip.preprocess(open_rgb(p)) for p in photos])
    _, scores, is_ood = program.module()(pixels)
    rows = scored(artifact, photos)
    assert scores.tolist() == pytest.approx([float(r["score"]) for r in rows], rel=1e-5)
    assert is_ood.tolist() == [r["is_ood"] == "true" for r in rows]


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_the_default_score_is_exported_in_a_fresh_module(clip: Clip, photos: list[Path], tmp_path: Path, form: str):
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="ONNX export needs the extra 'export'")
    pixels = torch.stack([clip.preprocess(open_rgb(p)) for p in photos])
    features = clip.encode_images(pixels)
    plain = make_prompts(clip)
    bank = make_scorer(bench_of(clip), plain).bank
    assert bank.negatives is not None
    labels = torch.arange(len(features)) % len(NAMES)
    found = IdStatistics.measure(
        features.clone(), labels, bank.positives, bank.negatives, lambda *_: bank.negatives, seed=0
    )
    scorer = make_scorer(bench_of(clip), replace(plain, id_statistics=found))
    assert scorer.bank.id_statistics is not None
    made = run_export(scorer, tmp_path / f"model.{form}", form=form)
    assert made.difference <= 1e-4
    scores = {"onnx": load_onnx, "pt2": load_pt2}[form](made.path)(pixels)[1]
    assert scores.tolist() == pytest.approx(scorer.judge(features).scores.tolist(), rel=1e-5)


@pytest.mark.parametrize("name", prompt_scores())
def test_the_module_computes_every_score_of_prompts(clip: Clip, name: str):
    scorer = make_scorer(bench_of(clip), make_prompts(clip), score=name, threshold=0.0)
    module = detector_module(scorer)
    pixels = torch.randn(4, 3, *pixel_size(scorer), generator=torch.Generator().manual_seed(0))
    probabilities, scores, is_ood = module(pixels)
    verdicts = scorer.judge(clip.encode_images(pixels))
    assert scores.tolist() == pytest.approx(verdicts.scores.tolist(), rel=1e-5)
    assert probabilities.max(dim=1).values.tolist() == pytest.approx(verdicts.probabilities.tolist(), rel=1e-4)
    assert is_ood.tolist() == (verdicts.scores < 0).tolist()


def pixel_size(scorer: Scorer) -> tuple[int, int]:
    height, width = steps.preprocessing_of(scorer)["size"]
    return height, width


def test_a_file_that_disagrees_is_not_written(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scorer = make_scorer(bench_of(clip), make_prompts(clip))

    def load_other(path: Path) -> Any:
        run = load_pt2(path)
        return lambda pixels: tuple(o if o.dtype == torch.bool else o * 1.001 for o in run(pixels))

    monkeypatch.setattr(steps, "load_pt2", load_other)
    with pytest.raises(NegPromptError, match="differs from PyTorch"):
        run_export(scorer, tmp_path / "model.pt2", form="pt2")
    assert not list(tmp_path.iterdir())


def test_the_difference_is_a_share_of_the_range(clip: Clip):
    scorer = make_scorer(bench_of(clip), make_prompts(clip))
    module = detector_module(scorer)
    size = pixel_size(scorer)
    assert check_export(module, module, size) == 0
    worse = check_export(
        lambda p: tuple(o + (0 if o.dtype == torch.bool else 0.01 * o.max()) for o in module(p)), module, size
    )
    assert worse == pytest.approx(0.01, rel=1e-3)
    assert check_export(lambda p: tuple(o[:1] for o in module(p)), module, size) == float("inf")


def test_half_precision_is_half_the_size(
    onnx_file: Path, artifact: Path, photos: list[Path], clip: Clip, tmp_path: Path
):
    out = tmp_path / "half.onnx"
    done = run("export", "--prompts", artifact, "--device", "cpu", "--fp16", "--out", out, "-q")
    assert done.exit_code == 0, done.output
    assert out.stat().st_size < 0.65 * onnx_file.stat().st_size
    pixels = torch.stack([clip.preprocess(open_rgb(p)) for p in photos])
    scores = load_onnx(out)(pixels)[1]
    assert scores.tolist() == pytest.approx([float(r["score"]) for r in scored(artifact, photos)], rel=1e-2)


def test_without_a_threshold_nothing_is_ood(clip: Clip, tmp_path: Path):
    path = write_artifact(make_prompts(clip), tmp_path / "plain.safetensors")
    done = run("export", "--prompts", path, "--format", "pt2", "--device", "cpu")
    assert "no threshold" in done.stderr
    module = torch.export.load(tmp_path / "plain.pt2").module()
    size = pixel_size(make_scorer(bench_of(clip), make_prompts(clip)))
    assert not module(torch.randn(3, 3, *size))[2].any()


def test_a_missing_library_is_named(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = run("export", "--prompts", artifact, "--out", tmp_path / "m.onnx")
    assert result.exit_code == 2
    assert "negprompt[export]" in result.stderr


def test_a_model_that_hides_its_preprocessing_is_refused(tiny_clip: Clip, tokenizer: SimpleTokenizer):
    scorer = make_scorer(bench_of(tiny_clip), replace(make_prompts(tiny_clip)))
    with pytest.raises(NegPromptError, match="preprocessed"):
        steps.export_metadata(scorer, half=False)
