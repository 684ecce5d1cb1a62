"""Citations: the paragraph says what was recorded, and nothing is said of a trial."""

import json

import pytest
from evaluation_documents import evaluation, evaluation_row
from typer.testing import CliRunner

from negprompt_cli import __version__
from negprompt_cli.cli.app import app
from negprompt_cli.data.results.evaluations import save_evaluation
from negprompt_cli.data.studies.citations import bibtex
from negprompt_cli.errors import UsageError
from negprompt_cli.steps.cite import cite_runs, describe


def _document(**changes):
    figures = {"auroc": 0.951, "fpr95_id_positive": 0.234, "fpr95_ood_positive": 0.345}
    rows = [
        evaluation_row(name, score, **figures)
        for score in ("mcm-zero-shot", "negprompt")
        for name in ("dtd", "places", "average")
    ]
    versions = {"negprompt": "9.9", "torch": "2.9.1", "open_clip": "3.3", "numpy": "2.4"}
    values = {"id__name": "imagenet", "id__images": 500, "id__classes": 10, "prompts__learned_on_classes": 10}
    return evaluation(rows, **{**values, "versions": versions, "temperature": 0.5, **changes})


def test_the_paragraph_has_all_that_decides_a_result():
    text = describe(_document(prompts__score_form="paper"), "negprompt")
    for part in (
        "ViT-B-16", "weights laion2b_s34b_b88k", "sha256 abababababab", "loss separation", "from 16 images per class (",
        "2 negative prompts per class", "4 context vectors", "seed 0", "imagenet (500 images, 10 classes", "70.0 %",
        "dtd (10), places (10)", "score negprompt (form paper, temperature 0.5)", "AUROC of 95.1 %", "FPR95 of 23.4 %",
        "34.5 % with OOD as the positive class", "negprompt 9.9 (torch 2.9.1, open_clip 3.3)",
    ):  # fmt: skip
        assert part in text, part
    assert 'template "a photo of a {}."' in describe(_document(), "mcm-zero-shot")


def test_seeds_transfer_and_differences_are_said():
    gap = {"difference": 0.012, "low": 0.004, "high": 0.02, "p": 0.01}
    versus = {"baseline": "mcm", "level": 0.95, "auroc": gap, "fpr95_id_positive": gap, "fpr95_ood_positive": gap}
    row = evaluation_row("noise", "negprompt", std={"auroc": 0.01}, versus=versus, auroc=0.9)
    seeds = [{"seed": seed, "path": "x", "sha256": "y", "accuracy": 0.7} for seed in (3, 5)]
    text = describe(evaluation([row], seeds=seeds, prompts__learned_on_classes=1, prompts__shots=0), "negprompt")
    for part in (
        "all training images of 1 of the classes", "seeds 3, 5", "90.0 ± 1.0 %", "standard deviation over 2 seeds",
        "from mcm, the best baseline on the same images, is +1.2 [0.4, 2.0] points of AUROC (95 % interval by DeLong)",
    ):  # fmt: skip
        assert part in text, part
    assert "learned" not in describe(evaluation([row], prompts__shots=None, prompts__loss=None), "negprompt")


def test_the_command_prints_bibtex_and_whom_to_cite(tmp_path):
    alone = CliRunner().invoke(app, ["cite"])
    assert alone.exit_code == 0
    assert alone.stdout == bibtex()
    assert bibtex().count("{") == bibtex().count("}")
    assert "2404.03248" in bibtex() and f"version = {{{__version__}}}" in bibtex()
    save_evaluation(tmp_path / "run" / "evaluation.json", _document())
    text = CliRunner().invoke(app, ["cite", str(tmp_path / "run")]).stdout
    assert text.endswith(bibtex())
    assert "Ming et al." in text and "Cimpoi et al." in text and "Russakovsky et al." in text
    document = json.loads(CliRunner().invoke(app, ["cite", str(tmp_path / "run"), "--json"]).stdout)
    (found,) = document["evaluations"]
    assert list(found["scores"]) == ["mcm-zero-shot", "negprompt"]
    assert found["paragraph"] == describe(_document(), "negprompt")


def test_trials_and_scores_that_are_not_there_are_refused(tmp_path):
    save_evaluation(tmp_path / "a.json", _document(limited=True))
    save_evaluation(tmp_path / "b.json", _document())
    with pytest.raises(UsageError, match="limited trial"):
        cite_runs([tmp_path / "a.json"])
    with pytest.raises(UsageError, match="'negprompt'"):
        cite_runs([tmp_path / "b.json"], score="negpromt")
