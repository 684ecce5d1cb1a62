"""Same seed, same bytes, in whatever process; and a verification that says ok, differs or unknown, each for its reason."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scoring_world import NAMES, bench_of, make_prompts, run, write_images, write_photos

from negprompt_cli.data.results.artifacts import Prompts, artifact_bytes, load_prompts, save_prompts
from negprompt_cli.data.results.provenance import features_digest, versions
from negprompt_cli.engine.clip import Clip
from negprompt_cli.progress import Silent
from negprompt_cli.steps.shared.learning import TrainingData, learn_negative, learn_positive
from negprompt_cli.steps.verify import Verification, run_verify

FAST = [f"--set={stage}.schedule.{key}" for stage in ("positive", "negative") for key in ("epochs=3",)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bitmaps, which are of one size whatever they show."""
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 16, suffix=".bmp")


def arguments(clip: Clip, photos: Path, into: Path) -> list[str]:
    """A fit: both stages, then a threshold."""
    common = ["--model", clip.identity.name, "--device", "cpu", "--workers", "0", "-q", "--overwrite"]
    return ["fit", str(photos), *common, *FAST, "--run", str(into)]


@pytest.fixture(scope="module")
def original(clip: Clip, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("original")
    assert run(*arguments(clip, photos, into)).exit_code == 0
    return into


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A run folder of the test's own."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def verify(path: Path, *, parent: Path | None = None, retrain: bool = False, **changes: object) -> Verification:
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return run_verify(path, parent=parent, retrain=retrain, changes=changes, progress=Silent())


def found(verification: Verification) -> dict[str, str]:
    return {check.what: check.status for check in verification.checks}


def rewrite(path: Path, **changes: Any) -> Prompts:
    """Change an artifact as someone with an editor would, its recorded versions as they are."""
    prompts = replace(load_prompts(path), **changes)
    path.write_bytes(artifact_bytes(prompts))
    return prompts


def test_the_same_seed_gives_the_same_bytes_in_every_process(clip: Clip, photos: Path, original: Path, tmp_path: Path):
    def bytes_of(into: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted(into.glob("*.safetensors"))}

    first = bytes_of(original)
    assert list(first) == ["negative.safetensors", "positive.safetensors"]
    # As many threads as in this process; strings hash differently in every process.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONHASHSEED": "random"}
    command = [sys.executable, "-m", "negprompt_cli", *arguments(clip, photos, tmp_path / "second")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert bytes_of(tmp_path / "second") == first
    # The cache of this test knows the features of that process now; then it knows none.
    assert run(*arguments(clip, photos, tmp_path / "third")).exit_code == 0
    assert bytes_of(tmp_path / "third") == first
    assert run("cache", "clear").exit_code == 0
    assert run(*arguments(clip, photos, tmp_path / "fourth")).exit_code == 0
    assert bytes_of(tmp_path / "fourth") == first
    assert run(*arguments(clip, photos, tmp_path / "other"), "--seed", 1).exit_code == 0
    assert bytes_of(tmp_path / "other")["negative.safetensors"] != first["negative.safetensors"]


def test_what_was_made_is_made_again(made: Path):
    result = run("verify", made / "negative.safetensors", "--retrain", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["status"] == "ok"
    assert document["retrained"] is True
    assert document["versions"] == versions()
    assert [(check["what"], check["status"]) for check in document["checks"]] == [
        (what, "ok")
        for what in (
            "file",
            "configuration",
            "versions",
            "model",
            "parent (positive)",
            "positives",
            "processor",
            "images",
            "held-out images",
            "features",
            "trained again",
            "calibrated again",
        )
    ]
    assert verify(made / "positive.safetensors", retrain=True).conclusion == "It was reproduced bit for bit."


def test_lines_for_people_end_with_the_verdict(made: Path):
    result = run("verify", made / "positive.safetensors")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    # A long reason goes over several lines, the later ones indented.
    assert all(line.startswith(("ok ", "   ")) for line in lines[:-1])
    assert lines[-1] == "ok: It can be reproduced from what it records."
    assert run("verify", made / "positive.safetensors", "-q").stdout.splitlines() == lines[-1:]


def test_what_has_moved_is_unknown_until_it_is_shown(clip: Clip, photos: Path, made: Path, tmp_path: Path):
    here = Path(clip.identity.name.removeprefix("local-dir:"))
    photos_there = shutil.copytree(photos, tmp_path / "elsewhere" / "pictures")
    model_there = shutil.copytree(here, tmp_path / "elsewhere" / "model")
    path = made / "negative.safetensors"
    # As if it had been made of what is gone now.
    for file in (made / "positive.safetensors", path):
        config = load_prompts(file).config
        data = config.data.model_copy(update={"spec": str(tmp_path / "gone")})
        model = config.model.model_copy(update={"name": f"local-dir:{tmp_path / 'none'}"})
        known = load_prompts(file).calibration
        rewrite(
            file,
            config=config.model_copy(update={"data": data, "model": model}),
            calibration=known and known.model_copy(update={"data": data.spec}),
        )
        file.with_name(f"{file.stem}.config.yaml").unlink()
    moved = {"model__name": f"local-dir:{model_there}", "data__spec": str(photos_there)}
    lost = found(verify(path))
    assert {what for what, status in lost.items() if status == "unknown"} == {
        "model",
        "images",
        "held-out images",
        "parent (positive)",
    }
    assert run("verify", path).exit_code == 0
    again = verify(made / "positive.safetensors", retrain=True, **moved)
    assert again.status == "ok", again.checks


def test_changed_images_differ(clip: Clip, photos: Path, tmp_path: Path):
    mine = shutil.copytree(photos, tmp_path / "photos")
    into = tmp_path / "run"
    assert run(*arguments(clip, mine, into)).exit_code == 0
    one, other = (sorted((mine / name.replace(" ", "_")).iterdir()) for name in NAMES[:2])
    for a, b in zip(one, other, strict=True):
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)
    # Names and sizes are as before; only who looks inside notices.
    path = into / "positive.safetensors"
    assert verify(path).status == "ok"
    again = verify(path, retrain=True)
    assert found(again)["features"] == "differs"
    assert found(again)["trained again"] == "differs"
    for file in one:
        file.write_bytes(file.read_bytes() + b"\0")
    result = run("verify", path)
    assert result.exit_code == 1
    assert "differs  images" in result.stdout
    assert "images" in result.stdout.splitlines()[-1]


def test_another_model_differs(clip: Clip, made: Path, tmp_path: Path):
    other = Path(shutil.copytree(clip.identity.name.removeprefix("local-dir:"), tmp_path / "model"))
    (weights,) = other.glob("*.safetensors")
    tensors = load_file(weights)
    tensors["logit_scale"] = tensors["logit_scale"] + 1
    weights.unlink()
    save_file(tensors, weights)
    result = run("verify", made / "positive.safetensors", "--model", f"local-dir:{other}")
    assert result.exit_code == 1
    assert "differs  model" in result.stdout


def test_an_artifact_that_was_changed_differs(made: Path):
    path = made / "negative.safetensors"
    sound, prompts = path.read_bytes(), load_prompts(path)
    assert prompts.negative is not None
    rewrite(path, positive=prompts.positive + 1e-3)
    assert found(verify(path))["positives"] == "differs"
    rewrite(path, negative=prompts.negative + 0.5)
    again = verify(path, retrain=True)
    (line,) = [check for check in again.checks if check.what == "trained again"]
    assert line.status == "differs"
    assert float(line.reason.rsplit(" ", 1)[1]) == pytest.approx(0.5, rel=1e-3)
    assert prompts.calibration is not None
    rewrite(path, negative=prompts.negative, calibration=prompts.calibration.model_copy(update={"threshold": 0.1}))
    assert found(verify(path, retrain=True))["calibrated again"] == "differs"
    path.write_bytes(sound)
    with safe_open(path, framework="pt") as opened:
        metadata = {**opened.metadata(), "note": "mine"}
    save_file(load_file(path), path, metadata)
    assert found(verify(path))["file"] == "differs"


def test_other_settings_beside_it_differ(made: Path):
    record = made / "positive.config.yaml"
    record.write_text(record.read_text().replace("seed: 0", "seed: 7"))
    assert found(verify(made / "positive.safetensors"))["configuration"] == "differs"
    record.write_text("seed: [")
    assert found(verify(made / "positive.safetensors"))["configuration"] == "differs"


def test_other_versions_and_processors_differ(made: Path):
    path = made / "positive.safetensors"
    (summary,) = load_prompts(path).training
    rewrite(path, training=(summary.model_copy(update={"versions": {**versions(), "torch": "2.6.0"}}),))
    again = verify(path, retrain=True)
    assert found(again)["versions"] == "differs"
    assert "torch 2.6.0, here" in str(again.checks)
    (line,) = [check for check in again.checks if check.what == "trained again"]
    assert "contexts are the same bit for bit" in line.reason
    rewrite(path, training=(summary.model_copy(update={"device": "NVIDIA H200"}),))
    assert found(verify(path))["processor"] == "differs"


def test_what_was_not_recorded_is_unknown(made: Path):
    path = made / "positive.safetensors"
    (summary,) = load_prompts(path).training
    silent = summary.model_copy(update={"versions": {}, "device": "", "features_sha256": "", "files_sha256": ""})
    rewrite(path, training=(silent,), written_with={})
    states = found(verify(path, retrain=True))
    assert {what for what, status in states.items() if status == "unknown"} == {
        "versions",
        "processor",
        "images",
        "trained again",
    }


def test_parents_are_found_by_their_digest(made: Path, tmp_path: Path):
    path, parent = made / "negative.safetensors", made / "positive.safetensors"
    away = tmp_path / "elsewhere.bin"
    shutil.move(parent, away)
    assert found(verify(path, retrain=True))["parent (positive)"] == "unknown"
    assert verify(path, parent=away, retrain=True).status == "ok"
    assert found(verify(path, parent=path))["parent (positive)"] == "differs"
    assert found(verify(path, parent=tmp_path / "none"))["parent (positive)"] == "differs"


def test_a_transferred_artifact_is_its_parent_with_other_names(made: Path):
    (made / "novel.txt").write_text("grey dot\nred circle\n")
    run("transfer", "--classes", made / "novel.txt", "--run", made, "--device", "cpu")
    path = made / "transfer-novel.safetensors"
    verification = verify(path, retrain=True)
    assert found(verification)["contexts"] == "ok"
    assert verification.status == "ok", verification.checks
    assert not verification.retrained
    prompts = load_prompts(path)
    rewrite(path, positive=prompts.positive * 2)
    assert found(verify(path))["contexts"] == "differs"


def test_untrained_and_imported_prompts_are_unknown(clip: Clip, tmp_path: Path):
    path = tmp_path / "words.safetensors"
    save_prompts(make_prompts(clip), path)
    states = found(verify(path, retrain=True))
    assert states["training"] == states["trained again"] == "unknown"
    assert "differs" not in states.values()


def test_features_that_were_handed_over_are_unknown(clip: Clip, tmp_path: Path):
    features = torch.nn.functional.normalize(torch.randn(12, 128, generator=torch.Generator().manual_seed(0)), dim=-1)
    width = clip.encode_template(["cat"], template="{}.", budget=2**28).shape[-1]
    data = TrainingData.of(features[:, :width], torch.arange(12) % 3, make_prompts(clip).classes, clip.device)
    bench = bench_of(clip)
    prompts = learn_negative(bench, data, learn_positive(bench, data).prompts).prompts
    assert prompts.training[0].features_sha256 == features_digest(features[:, :width], torch.arange(12) % 3)
    path = tmp_path / "made.safetensors"
    save_prompts(prompts, path)
    states = found(verify(path, retrain=True, compute__device="cpu"))
    assert states["images"] == states["trained again"] == "unknown"
    assert "differs" not in states.values()


def test_zero_shot_positives_have_no_parent(clip: Clip, photos: Path, tmp_path: Path):
    common = ["--model", clip.identity.name, "--device", "cpu", "--workers", 0, *FAST]
    run("train-negative", "--data", photos, "--positive", "zero-shot", "--run", tmp_path, *common)
    verification = verify(tmp_path / "negative.safetensors", retrain=True)
    assert verification.status == "ok", verification.checks


@pytest.mark.parametrize("content", [None, b"", b"not an artifact", bytes(100)])
def test_what_is_no_artifact_is_bad_input(tmp_path: Path, content: bytes | None):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    result = run("verify", path)
    assert result.exit_code == 2
    assert "x.safetensors" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "abacus"], "abacus"),
        (["--model", "local-dir:nowhere"], "nowhere"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_options_that_name_nothing_are_bad_input(made: Path, options: list[str], says: str):
    result = run("verify", made / "positive.safetensors", *options)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_recorded_device_that_is_not_here_is_unknown(made: Path):
    path = made / "positive.safetensors"
    config = load_prompts(path).config
    rewrite(path, config=config.model_copy(update={"compute": config.compute.model_copy(update={"device": "cuda:77"})}))
    (made / "positive.config.yaml").unlink()
    states = found(verify(path))
    assert states["model"] == states["processor"] == "unknown"
    assert verify(path, compute__device="cpu").status == "ok"


def test_every_result_says_its_versions_and_digests(made: Path, photos: Path, tmp_path: Path):
    write_images(tmp_path / "other", 4, seed=9)
    (made / "novel.txt").write_text("grey dot\n")
    path = made / "negative.safetensors"
    sha256, weights = load_prompts(path).sha256, load_prompts(path).model.weights_sha256

    def document(*words: object) -> dict[str, Any]:
        result = run(*words, "--device", "cpu", "--set", "compute.workers=0", "--json")
        assert result.exit_code == 0, result.output
        made_by = json.loads(result.stdout)
        assert made_by["versions"] == versions(), words[0]
        return made_by

    evaluation = document("evaluate", "--data", photos, "--ood", tmp_path / "other", "--run", made)
    assert evaluation["prompts"]["sha256"] == sha256
    assert evaluation["model"]["weights_sha256"] == weights
    assert len(evaluation["id"]["files_sha256"]) == len(evaluation["ood"]["other"]["files_sha256"]) == 64
    scored = document("score", tmp_path / "other", "--prompts", path, "--out", tmp_path / "rows.csv")
    assert (scored["prompts_sha256"], scored["weights_sha256"]) == (sha256, weights)
    transferred = document("transfer", "--classes", made / "novel.txt", "--run", made)
    assert transferred["parents"] == [{"kind": "negative", "sha256": sha256}]
    assert transferred["weights_sha256"] == weights
    assert (
        document("export", "--format", "coop", "--prompts", path, "--out", tmp_path / "coop.pt")["prompts_sha256"]
        == sha256
    )
    calibrated = document("calibrate", "--data", photos, "--run", made, "--overwrite")
    assert calibrated["sha256"] == load_prompts(path).sha256
    assert len(calibrated["files_sha256"]) == 64
    compared = run("compare", made, "--json")
    assert json.loads(compared.stdout)["sources"]["run"] == {
        "weights_sha256": weights,
        "prompts_sha256": [sha256],
        "versions": versions(),
    }
