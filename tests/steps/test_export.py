"""Exported files against PyTorch, `negprompt score` with one against the same with its artifact, and the example.

Neither that command nor the example needs torch; the example needs none of this package either.
"""

import csv
import json
import os
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
from negprompt_cli.config import PixelsConfig
from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.judgement import NEGATIVE_OUTPUTS, OUTPUTS, prompt_scores
from negprompt_cli.engine.scores.id_statistics import IdStatistics
from negprompt_cli.errors import NegPromptError
from negprompt_cli.steps import export as steps
from negprompt_cli.steps.export import check_export, detector_module, load_onnx, load_pt2, run_export
from negprompt_cli.steps.shared.scorer import Scorer, make_scorer

EXAMPLE = Path(negprompt_cli.__file__).parent / "examples/score_onnx.py"
NOT_NEEDED = (
    *("torch", "torchvision", "open_clip", "timm", "safetensors", "huggingface_hub", "sklearn", "scipy", "matplotlib"),
    *("onnx", "onnxscript", "pandas", "pyarrow"),
)
"""Libraries without which an exported detector scores images."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = write_images(folder, 6)
    for path, size in zip(paths, [(40, 30), (30, 41), (33, 97), (101, 64), (64, 64), (500, 375)], strict=True):
        Image.open(path).resize(size, Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture(scope="module")
def artifact(clip: Clip, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated between the photos' scores, one class on its own."""
    prompts = make_prompts(clip)
    features = torch.stack([clip.preprocess(open_rgb(p)) for p in photos])
    judged = make_scorer(bench_of(clip), prompts).judge(clip.encode_images(features))
    scores = np.sort(judged.scores)
    made = calibrated(prompts, float(scores[2:4].mean()))
    assert made.calibration is not None
    own = {prompts.classes[int(judged.predictions[judged.scores.argsort()[3]])].key: float(scores[3:5].mean())}
    wide = tuple(np.linspace(scores[0] - 0.1, scores[-1] + 0.1, 100).tolist())
    made = replace(made, calibration=made.calibration.model_copy(update={"by_class": own, "scores": wide}))
    return write_artifact(made, tmp_path_factory.mktemp("artifact") / "negative.safetensors")


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
    assert [o.name for o in session.get_outputs()] == [*OUTPUTS, *NEGATIVE_OUTPUTS]
    height, width = about["preprocessing"]["size"]
    pixels = np.random.default_rng(0).standard_normal((7, 3, height, width)).astype(np.float32)
    whole = session.run(None, {"pixels": pixels})
    assert [output.shape for output in whole] == [(7, 3), (7,), (7,), (7,), (7,)]
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
    _, scores, is_ood, *_ = program.module()(pixels)
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
    bench = bench_of(clip)
    settings = bench.config.evaluate.model_copy(update={"next_classes": 2})
    bench = bench.with_config(bench.config.model_copy(update={"evaluate": settings}))
    scorer = make_scorer(bench, make_prompts(clip), score=name, threshold=0.0)
    module = detector_module(scorer)
    pixels = torch.randn(4, 3, *pixel_size(scorer), generator=torch.Generator().manual_seed(0))
    probabilities, scores, is_ood, *_ = module(pixels)
    verdicts = scorer.judge(clip.encode_images(pixels))
    assert scores.tolist() == pytest.approx(verdicts.scores.tolist(), rel=1e-5)
    assert probabilities.max(dim=1).values.tolist() == pytest.approx(verdicts.probabilities.tolist(), rel=1e-4)
    assert is_ood.tolist() == (verdicts.scores < 0).tolist()


def pixel_size(scorer: Scorer) -> tuple[int, int]:
    return steps.preprocessing_of(scorer).size


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


def test_a_missing_library_is_named(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = run("export", "--prompts", artifact, "--out", tmp_path / "m.onnx")
    assert result.exit_code == 2
    assert "negprompt[export]" in result.stderr


def test_a_model_that_hides_its_preprocessing_is_refused(tiny_clip: Clip, tokenizer: SimpleTokenizer):
    scorer = make_scorer(bench_of(tiny_clip), replace(make_prompts(tiny_clip)))
    with pytest.raises(NegPromptError, match="preprocessed"):
        steps.export_metadata(scorer, half=False)


@pytest.fixture(scope="module")
def delivery(photos: list[Path]) -> list[Path]:
    """The photos and a broken file among them."""
    broken = photos[0].with_name("broken.png")
    broken.write_bytes(b"no image")
    return [*photos[:2], broken, *photos[2:]]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def same_rows(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for column, value in other.items():
            if column in ("score", "probability", "negative_similarity") and value:
                assert float(one[column]) == pytest.approx(float(value), abs=1e-3), column
            else:
                assert one[column] == value, column


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--threshold", -1000),
        ("--fdr", 0.6),
        ("--limit", 4),
        ("--fail-on-ood",),
        ("--image-batch", 2),
    ],
)
def test_the_rows_are_those_of_the_artifact(
    artifact: Path, onnx_file: Path, delivery: list[Path], more: tuple[Any, ...]
) -> None:
    ours = run("score", *delivery, "--prompts", onnx_file, *more)
    theirs = run("score", *delivery, "--prompts", artifact, "--device", "cpu", *more)
    assert ours.exit_code == theirs.exit_code, ours.output
    same_rows(rows_of(ours.stdout), rows_of(theirs.stdout))
    if not more:
        assert {row["is_ood"] for row in rows_of(ours.stdout)} == {"true", "false", ""}
    # What is said of the images is the same, but for how long they took.
    said = [[line for line in done.stderr.splitlines() if "OOD" in line or "judged" in line] for done in (ours, theirs)]
    assert said[0] == said[1]


def test_a_whole_delivery_is_sorted_judged_and_gone_on_with(
    artifact: Path, onnx_file: Path, delivery: list[Path], tmp_path: Path
) -> None:
    def deliver(prompts: Path, place: Path) -> tuple[dict[str, Any], set[str]]:
        common = ("score", *delivery, "--prompts", prompts, "--out", place / "rows.jsonl", "--sort-into", place / "in")
        assert run(*common, "--limit", 3).exit_code == 0
        done = run(*common, "--append", "--batch-verdict", "--fail-on-shift", "--json")
        assert done.exit_code in (0, 5), done.output
        document = json.loads(done.stdout)
        return document | {"exit_code": done.exit_code}, {
            str(p.relative_to(place)) for p in (place / "in").rglob("*.png")
        }

    ours, theirs = deliver(onnx_file, tmp_path / "ours"), deliver(artifact, tmp_path / "theirs")
    assert ours[1] == theirs[1] and len(ours[1]) == len(delivery) - 1
    assert ours[0]["versions"]["onnxruntime"] and "torch" not in ours[0]["versions"]
    for name in theirs[0].keys() - {"path", "versions", "decisions", "delivery"}:
        assert ours[0][name] == theirs[0][name], name
    assert ours[0]["delivery"] == pytest.approx(theirs[0]["delivery"], abs=1e-6)


def test_a_broken_image_stops_it_on_request(onnx_file: Path, delivery: list[Path]) -> None:
    done = run("score", *delivery, "--prompts", onnx_file, "--on-error", "stop")
    assert done.exit_code == 1 and "broken.png" in done.stderr


def test_it_needs_neither_torch_nor_most_other_libraries(onnx_file: Path, delivery: list[Path]) -> None:
    program = (
        f"import sys\nsys.modules.update(dict.fromkeys({NOT_NEEDED!r}))\nfrom negprompt_cli.cli import main\nmain()"
    )
    line = [sys.executable, "-c", program, "score", *delivery, "--prompts", onnx_file, "--limit", "2", "-q"]
    done = subprocess.run(
        line, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    assert len(rows_of(done.stdout)) == 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (("--score", "max-logit"), "--score"),
        (("--model", "RN50"), "--model"),
        (("--device", "cuda"), "--device"),
        (("--precision", "bf16"), "--precision"),
        (("--decoder", "torchcodec"), "--decoder"),
        (("--gpus", 2), "--gpus"),
        (("--threshold", "nan"), "finite"),
        (("--classes", "names.txt"), "--classes"),
    ],
)
def test_what_the_file_cannot_do_is_refused_by_name(
    onnx_file: Path, delivery: list[Path], line: tuple[Any, ...], named: str
) -> None:
    done = run("score", *delivery, "--prompts", onnx_file, *line)
    assert done.exit_code == 2 and not done.stdout
    assert named in done.stderr


def test_files_that_are_no_detectors_are_refused(onnx_file: Path, delivery: list[Path], tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(os.urandom(500))
    import onnx

    model = onnx.load(onnx_file)
    [entry] = model.metadata_props
    document = json.loads(entry.value)
    for name, changed in {
        "foreign.onnx": {"schema": "negprompt/export/99"},
        "short.onnx": {k: v for k, v in document.items() if k != "negatives"},
        "list.onnx": [],
    }.items():
        entry.value = json.dumps(changed)
        onnx.save(model, tmp_path / name)
    for name in ("noise.onnx", "foreign.onnx", "short.onnx", "list.onnx", "missing.onnx"):
        done = run("score", *delivery, "--prompts", tmp_path / name)
        assert done.exit_code == 2 and name in done.stderr and "negprompt export" in done.stderr, done.output


def test_without_a_threshold_none_is_called_ood(clip: Clip, delivery: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="ONNX export needs the extra 'export'")
    told = make_prompts(clip, negatives=0)
    model = told.config.model.model_copy(update={"pixels": PixelsConfig(alpha="white")})
    told = replace(told, config=told.config.model_copy(update={"model": model}))
    path = write_artifact(told, tmp_path / "plain.safetensors")
    assert "no threshold" in run("export", "--prompts", path, "--device", "cpu").stderr
    file = path.with_suffix(".onnx")
    done = run("score", *delivery, "--prompts", file)
    assert (
        "There is no threshold for mcm" in done.stderr and "images are read by model.pixels: alpha white" in done.stderr
    )
    same_rows(rows_of(done.stdout), rows_of(run("score", *delivery, "--prompts", path, "--device", "cpu").stdout))
    assert not load_onnx(file)(torch.randn(3, 3, *pixel_size(make_scorer(bench_of(clip), told))))[2].any()
    refused = run("score", *delivery, "--prompts", file, "--fail-on-ood")
    assert refused.exit_code == 2 and "export it again" in refused.stderr
