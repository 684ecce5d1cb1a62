"""The evaluation document: what is written comes back, means are means, and how figures are shown."""

import json
from pathlib import Path

import pytest
from evaluation_documents import evaluation, evaluation_row

from negprompt_cli.data.results.evaluation_means import average_over_seeds, average_over_sets
from negprompt_cli.data.results.evaluations import load_evaluation, save_evaluation
from negprompt_cli.errors import UsageError
from negprompt_cli.wording import plain


def test_what_is_written_comes_back_and_holds_no_defaults(tmp_path: Path):
    document = evaluation([evaluation_row(autc=None, auroc=0.1 + 0.2)], prompts__loss=None, future="kept")
    save_evaluation(tmp_path / "e.json", document)
    assert load_evaluation(tmp_path / "e.json") == document
    values = json.loads((tmp_path / "e.json").read_text())
    assert values["schema"] == "negprompt/evaluation/1"
    assert values["future"] == "kept"
    assert values["rows"][0]["auroc"] == 0.1 + 0.2
    assert values["rows"][0]["autc"] is None
    assert values["prompts"]["loss"] is None
    assert not {"std", "ci", "fpr"} & set(values["rows"][0])


def test_the_average_over_sets_is_the_plain_mean_and_undefined_where_a_set_is():
    fprs = [{"0.9": {"id_positive": value, "ood_positive": 0.5}} for value in (0.25, 0.75)]
    rows = [
        evaluation_row("a", auroc=0.5, autc=None, fpr=fprs[0], ci={"auroc": (0.4, 0.6)}, ci_level=0.95),
        evaluation_row("b", auroc=1.0, fpr=fprs[1], ci={"auroc": (0.9, 1.0)}, ci_level=0.95),
    ]
    made = average_over_sets(rows)
    assert (made.ood, made.images, made.auroc, made.autc) == ("average", 20, 0.75, None)
    assert made.fpr is not None and made.fpr["0.9"].id_positive == 0.5
    assert made.ci is None


def test_one_limited_seed_marks_the_whole():
    documents = [
        evaluation([evaluation_row(auroc=auroc, autc=None)], prompts__seed=seed, limited=seed == 2)
        for seed, auroc in ((1, 0.25), (2, 0.75))
    ]
    made = average_over_seeds(documents)
    assert made.limited is True
    assert made.seed_list == [1, 2]
    assert made.rows[0].autc is None and made.rows[0].std is not None
    assert made.rows[0].std["auroc"] == pytest.approx(0.125**0.5)
    assert made.spread == ", mean ± standard deviation over seeds"
    assert average_over_seeds(documents[:1]).id.accuracy_std is None


def test_figures_are_shown_with_what_is_known_of_their_spread():
    figures = {"auroc": 0.8751, "fpr95_id_positive": 0.25, "fpr95_ood_positive": 0.75}
    interval = {"ci": {"auroc": (0.8, 0.9), "fpr95_id_positive": (0.2, 0.3)}, "ci_level": 0.95}
    assert evaluation_row(**figures).text() == "87.5 / 25.0"
    assert evaluation_row(**figures).text("fpr95_ood_positive") == "87.5 / 75.0"
    assert evaluation_row(**figures, std={"auroc": 0.01, "fpr95_id_positive": None}).text() == "87.5 ± 1.0 / 25.0"
    assert evaluation_row(**figures, **interval).text() == "87.5 [80.0, 90.0] / 25.0 [20.0, 30.0]"
    assert evaluation_row(**figures, **interval).text(intervals=False) == "87.5 / 25.0"
    document = evaluation([evaluation_row(**figures, **interval), evaluation_row("average", **figures)])
    assert document.spread == ", with 95 % bootstrap intervals over images"
    columns, rows = document.table()
    assert columns == ["score", "noise", "average"]
    assert [plain(c) for c in rows[0]] == ["mcm", "87.5 [80.0, 90.0] / 25.0 [20.0, 30.0]", "87.5 / 25.0"]


@pytest.mark.parametrize("missing", ["auroc", "aupr_out_trapezoid", "images"])
def test_a_document_that_lacks_a_figure_is_refused_and_the_figure_named(tmp_path: Path, missing: str):
    values = evaluation([evaluation_row()]).document()
    del values["rows"][0][missing]
    (tmp_path / "e.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=rf"rows\.0\.{missing}"):
        load_evaluation(tmp_path / "e.json")
