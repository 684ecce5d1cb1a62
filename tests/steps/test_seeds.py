"""Several seeds: where files go, means and deviations against numpy, and what is refused."""

import json

import numpy as np
import pytest
from evaluation_world import World, make_world, train, workbench
from recorder import Recorder

from negprompt_cli.cli.options import Common
from negprompt_cli.cli.seeds import parse_seeds
from negprompt_cli.data.results.evaluations import load_evaluation
from negprompt_cli.engine.metrics.detection import METRICS
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.seeds import evaluate_seeds, train_negative_seeds, train_positive_seeds
from negprompt_cli.steps.shared.artifact_file import seed_artifacts
from negprompt_cli.wording import plain


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), tiny_clip)
    for seed in (1, 2, 5):
        train(world, world.run / f"seed-{seed}", seed=seed)
    return world


def _evaluate(world, out, seeds=(1, 2, 5), bench=None):
    bench = bench or world.bench(scores=("negprompt", "mcm"))
    artifacts = seed_artifacts(world.run, seeds, "negative.safetensors")
    return evaluate_seeds(bench, world.run, out, artifacts=artifacts, overwrite=True)


def test_every_cell_is_the_mean_and_the_sample_deviation_of_the_seeds(world):
    result = _evaluate(world, world.run / "evaluation.json")
    single = [json.loads((world.run / f"seed-{s}" / "evaluation.json").read_text()) for s in (1, 2, 5)]
    assert [d["prompts"]["seed"] for d in single] == [1, 2, 5]
    for i, row in enumerate(result.document.rows):
        for metric in METRICS:
            values = [d["rows"][i][metric] for d in single]
            assert row.figure(metric) == pytest.approx(np.mean(values))
            assert row.std[metric] == pytest.approx(np.std(values, ddof=1))
    # Another seed gives other negatives, else the deviation would say nothing.
    assert any(row.std["autc"] > 0 for row in result.document.rows)
    assert result.document.seed_list == [1, 2, 5]
    assert load_evaluation(world.run / "evaluation.json") == result.document


def test_the_images_are_encoded_once_for_all_seeds(world):
    # Without the cache on disk every encoding is a task.
    compute = world.config.compute.model_copy(update={"cache": False})
    progress = Recorder()
    bench = workbench(world.config.model_copy(update={"compute": compute}), world.clip, progress)
    _evaluate(world, world.run / "again.json", bench=bench)
    assert sorted(progress.tasks) == ["Encoding noise", "Encoding pets"]


def test_intervals_are_kept_over_seeds(world):
    evaluate = world.config.evaluate.model_copy(update={"ci": True, "resamples": 40, "scores": ("negprompt", "mcm")})
    bench = workbench(world.config.model_copy(update={"evaluate": evaluate}), world.clip, Recorder())
    document = _evaluate(world, world.run / "ci.json", bench=bench).document
    one = _evaluate(world, world.run / "ci1.json", seeds=(2,), bench=bench).document
    for row, single in zip(document.rows, one.rows, strict=True):
        if row.ood == "average":
            assert row.ci is None
            continue
        low, high = row.ci["auroc"]
        assert low <= row.auroc <= high
        # For one seed the interval is that of its own evaluation.
        own = json.loads((world.run / "seed-2" / "ci1.json").read_text())
        assert list(single.ci["auroc"]) == next(
            r["ci"]["auroc"] for r in own["rows"] if (r["score"], r["ood"]) == (row.score, row.ood)
        )
    cell = plain(document.table()[1][0][1])
    assert "±" in cell and "[" in cell
    # Paired with the one baseline, over all seeds.
    _, header, (row,) = document.differences()
    assert header == ["score", "AUROC", "p", "FPR95 (ID positive)"] and plain(row[0]) == "negprompt"
    negprompt = next(r for r in document.rows if r.score == "negprompt")
    mcm = next(r for r in document.rows if (r.score, r.ood) == ("mcm", negprompt.ood))
    assert negprompt.versus.auroc.difference == pytest.approx(negprompt.auroc - mcm.auroc)
    assert negprompt.versus.fpr95_ood_positive.difference == pytest.approx(
        negprompt.fpr95_ood_positive - mcm.fpr95_ood_positive
    )
    assert mcm.versus is None
    assert "deviation over seeds" in document.spread and "bootstrap intervals" in document.spread


def test_a_second_result_goes_beside_the_first(world, tmp_path):
    bench = world.bench(scores=("mcm",))
    artifacts = seed_artifacts(world.run, (1, 2), "negative.safetensors")
    more = {"artifacts": artifacts, "overwrite": False}
    evaluate_seeds(bench, world.run, world.run / "first.json", **more)
    evaluate_seeds(bench, world.run, world.run / "other.json", **more)
    evaluate_seeds(bench, world.run, tmp_path / "evaluation.json", **more)
    assert sorted(p.name for p in tmp_path.glob("*.json")) == [
        "evaluation-seed-1.json",
        "evaluation-seed-2.json",
        "evaluation.json",
    ]
    assert (world.run / "seed-1" / "other.json").is_file()
    with pytest.raises(UsageError, match="exists"):
        evaluate_seeds(bench, world.run, world.run / "other.json", **more)


def test_one_seed_has_no_deviation(world):
    result = _evaluate(world, world.run / "one.json", seeds=(2,))
    assert {row.std["auroc"] for row in result.document.rows} == {None}
    assert result.document.id.accuracy_std is None


def test_missing_and_misplaced_seeds_are_refused(world, tmp_path):
    with pytest.raises(UsageError, match="seed-7"):
        _evaluate(world, tmp_path / "e.json", seeds=(1, 7))
    train(world, world.run / "seed-8", seed=3)
    with pytest.raises(UsageError, match="trained with seed 3"):
        _evaluate(world, tmp_path / "f.json", seeds=(8,))


def test_both_stages_write_one_folder_per_seed(world, tmp_path):
    seeds, run, bench = (3, 4), tmp_path / "run", world.bench()
    positives = train_positive_seeds(bench, run, seeds=seeds, overwrite=False)
    found = seed_artifacts(run, seeds, "positive.safetensors")
    negatives = train_negative_seeds(bench, run, positives=found, overwrite=False)
    assert [r.path for r in negatives] == [run / f"seed-{s}" / "negative.safetensors" for s in seeds]
    assert [r.prompts.config.seed for r in (*positives, *negatives)] == [3, 4, 3, 4]
    for positive, negative in zip(positives, negatives, strict=True):
        assert negative.prompts.parents[0].sha256 == positive.prompts.sha256
    with pytest.raises(UsageError, match="exists"):
        train_positive_seeds(bench, run, seeds=seeds, overwrite=False)
    with pytest.raises(UsageError, match="No positive prompts"):
        missing = seed_artifacts(run, (6,), "positive.safetensors")
        train_negative_seeds(bench, run, positives=missing, overwrite=False)


@pytest.mark.parametrize("text", ["", "1,x", "1,-2", "1,1", "1.5"])
def test_bad_lists_of_seeds_are_refused(text):
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text, Common())


def test_seeds_exclude_what_names_one_file():
    assert parse_seeds(" 3, 1 ", Common()) == (3, 1)
    assert parse_seeds(None, Common(seed=1)) is None
    with pytest.raises(UsageError, match="--seed cannot be used"):
        parse_seeds("1,2", Common(seed=0))
    with pytest.raises(UsageError, match="--prompts cannot be used"):
        parse_seeds("1,2", Common(), prompts="x")
