"""One, two and three classes: training, scoring and evaluation work, and scores that say nothing are refused or left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scoring_world import NAMES, run, write_images

from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.scores import ScoreOptions, constant_scores, score_names
from negprompt_cli.engine.scores.compute import compute_scores
from negprompt_cli.engine.scores.score_inputs import ScoreInputs

FAST = [f"--set={stage}.schedule.epochs=3" for stage in ("positive", "negative")]


def unit(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_the_named_scores_are_those_that_are_the_same_for_every_image(classes: int):
    bank = ScoreInputs(
        unit(classes, 8, seed=1),
        unit(classes, 2, 8, seed=2),
        unit(classes, 8, seed=3),
        20.0,
        words=unit(10, 8, seed=4),
        words_by_images=unit(10, 8, seed=7),
        words_filtered=unit(10, 8, seed=8),
        csp_words=unit(10, 8, seed=9),
        pair_features=lambda places: unit(30, 8, seed=10)[places[:, 0] * 10 + places[:, 1]],
        train_features=unit(40, 8, seed=5),
        train_labels=torch.arange(40) % classes,
    )
    names, options = score_names(), ScoreOptions(word_groups=2)
    found = compute_scores(
        unit(5, 8, seed=0), bank, names, options=options, local_features=unit(5, 3, 8, seed=6)
    ).scores
    assert set(constant_scores(names, classes)) == {name for name in names if np.ptp(found[name]) < 1e-9}


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_fit_evaluate_and_score(classes: int, clip: Clip, tmp_path: Path):
    photos, ood = tmp_path / "photos", tmp_path / "ood"
    for seed, name in enumerate(NAMES[:classes]):
        write_images(photos / name.replace(" ", "_"), 44 // classes, seed=seed)
    write_images(ood, 6, seed=9)
    on = ["--device", "cpu", "--workers", 0, "--run", tmp_path / "run"]
    fitted = run("fit", photos, "--model", clip.identity.name, *FAST, *on, "--json")
    assert fitted.exit_code == 0, fitted.output
    document = json.loads(fitted.stdout)
    assert len(document["classes"]) == classes
    assert document["calibration"]["score"] == "negprompt"
    assert ("few-classes" in [d["kind"] for d in document["decisions"]]) == (classes == 1)
    measured = run("evaluate", "--data", photos, "--ood", ood, *on, "--json")
    assert measured.exit_code == 0, measured.output
    document = json.loads(measured.stdout)
    scores = {row["score"] for row in document["rows"]}
    assert ("mcm" in scores) == ("mcm-zero-shot" in scores) == (classes > 1)
    assert {"negprompt", "max-logit", "energy"} <= scores
    told = [d["facts"]["scores"] for d in document["decisions"] if d["kind"] == "few-classes"]
    assert told == ([["mcm", "mcm-zero-shot"]] if classes == 1 else [])
    assert run("score", ood, *on).exit_code == 0


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_class_names_alone(classes: int, clip: Clip, tmp_path: Path):
    (image,) = write_images(tmp_path / "images", 1)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in NAMES[:classes]))
    on = ["--classes", tmp_path / "names.txt", "--model", clip.identity.name, "--device", "cpu", "--workers", 0]
    assert run("score", image, *on).exit_code == 0
    softmax = run("score", image, *on, "--score", "mcm")
    assert softmax.exit_code == (2 if classes == 1 else 0)
    assert ("same for every image" in softmax.stderr) == (classes == 1)


def test_only_constant_scores_are_an_error(clip: Clip, tmp_path: Path):
    photos = tmp_path / "photos"
    write_images(photos / "red_circle", 44)
    on = ["--device", "cpu", "--workers", 0, "--run", tmp_path / "run"]
    run("fit", photos, "--model", clip.identity.name, *FAST, *on)
    refused = run("evaluate", "--data", photos, "--ood", photos, "--scores", "mcm,entropy", *on)
    assert refused.exit_code == 2
    assert "cannot detect OOD images" in refused.stderr and "--scores" in refused.stderr
