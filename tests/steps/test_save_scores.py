"""Scores of single images on disk: they read back exactly, and pytorch-ood measures the same on them."""

import csv
import importlib.util
import json

import pytest
import torch
from evaluation_world import EVAL, OOD, World, make_world
from pytorch_ood.metrics import OODMetrics

from negprompt_cli.errors import UsageError
from negprompt_cli.steps.evaluate import evaluation_document
from negprompt_cli.steps.shared.measure import Measured, measure
from negprompt_cli.steps.shared.score_file import check_score_file, save_scores


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_clip) -> World:
    return make_world(tmp_path_factory.mktemp("world"), tiny_clip)


@pytest.fixture(scope="module")
def measured(world) -> Measured:
    return measure(world.bench(scores=("negprompt", "max-logit")), world.artifact)


def _read(path):
    if path.suffix == ".csv":
        with path.open() as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_image_has_a_row_that_reads_back_exactly(measured, tmp_path, suffix):
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        pytest.skip("pyarrow, an extra, is not installed")
    path = tmp_path / f"scores{suffix}"
    check_score_file(path, overwrite=False)
    save_scores(path, [measured])
    rows = _read(path)
    assert len(rows) == 3 * EVAL + OOD
    for score in measured.scores:
        both = [*measured.id_set.table.scores[score], *measured.ood_sets[0].table.scores[score]]
        assert [float(row[score]) for row in rows] == [float(v) for v in both]
    assert [row["role"] for row in rows] == ["id"] * 3 * EVAL + ["ood"] * OOD
    assert rows[0]["label"] == "cat"
    assert not rows[-1]["label"]
    assert rows[-1]["path"].endswith("noise/6.png")
    assert {row["prediction_name"] for row in rows} <= {"cat", "dog", "red fox"}


def test_pytorch_ood_measures_the_same_on_the_file(world, measured, tmp_path):
    path = tmp_path / "scores.csv"
    save_scores(path, [measured])
    rows = _read(path)
    document = evaluation_document(world.bench(scores=measured.scores), measured, world.prompts)
    for score in measured.scores:
        outlier = torch.tensor([-float(row[score]) for row in rows], dtype=torch.float64)
        labels = torch.tensor([0 if row["role"] == "id" else -1 for row in rows])
        theirs = OODMetrics().update(outlier, labels).compute()
        mine = document.row(score, "noise")
        assert mine.auroc == pytest.approx(theirs["AUROC"], rel=1e-9)
        assert mine.fpr95_ood_positive == pytest.approx(theirs["FPR95TPR"], rel=1e-9)
        assert mine.aupr_in_trapezoid == pytest.approx(theirs["AUPR-IN"], rel=1e-9)
        assert mine.aupr_out_trapezoid == pytest.approx(theirs["AUPR-OUT"], rel=1e-9)


def test_another_suffix_a_file_that_is_there_and_missing_pyarrow_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="parquet"):
        check_score_file(tmp_path / "scores.xlsx", overwrite=False)
    (tmp_path / "old.csv").write_text("x")
    with pytest.raises(UsageError, match="exists"):
        check_score_file(tmp_path / "old.csv", overwrite=False)
    check_score_file(tmp_path / "old.csv", overwrite=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"negprompt\[parquet\]"):
        check_score_file(tmp_path / "new.parquet", overwrite=False)
